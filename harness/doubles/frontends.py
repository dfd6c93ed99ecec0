"""Doubles of known frontends: on the wire as these, and slow.

    frontend = FRONTENDS["edk2"](platform, handle)
    frontend.connect()
    frontend.write(0, data)
    frontend.close()

Or several operations at a time: `start_read` and its like return at once, and `poll` does what there is to do.
"""

import dataclasses
import errno
import functools
from collections.abc import Mapping
from typing import Any, Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, DOM0, PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkif import NATIVE, VDISK_READONLY, BlkifOp, BlkifRequest, DiscardRequest, Request
from xenblk.errors import BlkifPeerError
from xenblk.harness.doubles.frontend_operations import Operation, Queues
from xenblk.harness.doubles.frontend_quirks import QUIRKS, Follows, FrontendQuirks
from xenblk.harness.doubles.frontend_requests import Piece, Requests
from xenblk.harness.wire.deadline import wait_for
from xenblk.harness.wire.frontend import RawFrontend
from xenblk.harness.wire.ring import RawRing
from xenblk.platform import Platform
from xenblk.xenbus import XenbusState as S

_OPTIONS: Final = {
    "ring_page_order": "ring_page_order_max",
    "nr_queues": "queues_max",
    "max_indirect_segments": "indirect_segments_max",
    "feature_persistent": "persistent",
}


class FrontendDouble:
    """The frontend of device `handle` as `quirks` say; `options` are those that its quirks name.

    One thread uses it; offsets and lengths are multiples of 512. Deadlines are those of xenblk.harness.wire;
    BlkifPeerError for a backend that lacks a node that this frontend cannot do without; OSError for what the backend
    answers with an error, and for what this frontend's own system does not let through.
    """

    def __init__(
        self, quirks: FrontendQuirks, platform: Platform, handle: int, backend_id: Domid = DOM0, **options: Any
    ) -> None:
        changed = {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS}
        self.quirks = dataclasses.replace(quirks, **changed)
        self.size = 0
        self.read_only = False
        self._handle = handle
        self._frontend = RawFrontend(platform, handle, backend_id)
        self._requests = Requests(self._frontend, handle)
        self._queues: Queues | None = None
        self._refuses = self._dead = self._leaves = False

    # Life

    def connect(self) -> None:
        """Shake hands."""
        if self.quirks.waits_for_init_wait:
            self._frontend.await_backend(S.INITWAIT, S.INITIALISED, S.CONNECTED)
        rings = self._make_rings()
        self._frontend.write(self._keys(rings))
        self._frontend.switch(self.quirks.published)
        self._frontend.await_backend(S.CONNECTED)
        self._read_properties()
        self._queues = Queues(self.quirks, self._requests, rings)
        if self.quirks.published is not S.CONNECTED:
            self._frontend.switch(S.CONNECTED)
        self._frontend.store.watch(f"{self._frontend.backend_path}/state", "state")

    def _number(self, key: str) -> int:
        text = self._frontend.backend_node(key)
        if text is None and key in self.quirks.defaults:
            return self.quirks.defaults[key]
        return self.quirks.numbers.read(key, text)

    def _make_rings(self) -> list[RawRing]:
        quirks, key = self.quirks, "multi-queue-max-queues"
        order = min(quirks.ring_page_order_max, self._frontend.backend_number("max-ring-page-order"))
        offered = self._number(key) if key in quirks.needs else self._frontend.backend_number(key, 1)
        if key in quirks.needs and offered == 0:
            raise BlkifPeerError(f"this frontend may have none of the queues that {key} offers")
        return [self._frontend.ring(NATIVE, order) for _ in range(max(1, min(quirks.queues_max, offered)))]

    def _keys(self, rings: list[RawRing]) -> dict[str, str | None]:
        keys: dict[str, str | None] = dict(self.quirks.keys)
        for at, ring in enumerate(rings):
            folder = f"queue-{at}/" if len(rings) > 1 else ""
            for key, value in ring.keys().items():
                keys[key if key == "ring-page-order" else folder + key] = value
        if len(rings) > 1 or self.quirks.always_says_queues:
            keys["multi-queue-num-queues"] = str(len(rings))
        if self.quirks.writes_protocol:
            keys["protocol"] = NATIVE.protocol
        if self.quirks.persistent:
            keys["feature-persistent"] = "1"
        return keys

    def _read_properties(self) -> None:
        quirks, number = self.quirks, self._frontend.backend_number
        found = {key: self._number(key) for key in quirks.reads}
        mode = self._frontend.backend_node("mode")
        if mode is None and "mode" in quirks.needs:
            raise BlkifPeerError("this frontend cannot do without the backend's node mode")
        self._sector_size = found["sector-size"]
        self._set_size(found["sectors"])
        self.read_only = (mode or "w")[0] == "r" if quirks.read_only_by_mode else bool(found["info"] & VDISK_READONLY)
        self._requests.persistent = quirks.persistent and number("feature-persistent") == 1
        self._requests.segments_max = max(
            BLKIF_MAX_SEGMENTS_PER_REQUEST, min(quirks.indirect_segments_max, number("feature-max-indirect-segments"))
        )

    def _set_size(self, sectors: int) -> None:
        self.size = sectors * (self._sector_size if self.quirks.size_in_sector_size else SECTOR_SIZE)

    def close(self) -> None:
        """Leave in good order: Closing, Closed, each answered; then give everything back."""
        try:
            if self.quirks.flushes_on_close and self._queues is not None:
                self.flush()
            self._queues = None
            self._frontend.switch(S.CLOSING)
            self._frontend.await_backend(S.CLOSING, S.CLOSED, S.UNKNOWN)
            self._frontend.switch(S.CLOSED)
            self._frontend.await_backend(S.CLOSED, S.UNKNOWN)
            if self.quirks.resets_on_close:
                self._reset()
        finally:
            self._frontend.close()

    def _reset(self) -> None:
        if self._frontend.backend_state() is S.CLOSED:
            self._frontend.switch(S.INITIALISING)
            self._frontend.await_backend(S.INITWAIT, S.UNKNOWN)
            self._frontend.write(dict.fromkeys(self.quirks.resets_on_close))

    # Once connected

    def poll(self) -> None:
        """Follow the backend, take what it answered, send what waits."""
        if self._queues is None or self._dead:
            return
        while self._frontend.store.next_event(0) is not None:
            self._backend_changed(self._frontend.backend_state())
        self._queues.poll()
        if self._leaves and not self._queues.in_flight:
            self._leaves = False
            self._frontend.switch(S.CLOSED)

    def _backend_changed(self, state: S) -> None:
        if state in self.quirks.deadly:
            self._dead = True
        elif state is S.CONNECTED and self.quirks.follows_size:
            self._set_size(self._frontend.backend_number("sectors"))
        elif state in (S.CLOSING, S.CLOSED) and not self._refuses:
            self._backend_closes()

    def _backend_closes(self) -> None:
        self._refuses = self.quirks.follows_closing is not Follows.NOTHING
        if self.quirks.follows_closing is Follows.AT_ONCE:
            self._frontend.switch(S.CLOSED)
        elif self._queues is not None and self._refuses:
            self._queues.fail_waiting()
            self._leaves = True

    # Data

    def start_read(self, offset: int, nr_bytes: int) -> Operation:
        """Read from the disk."""
        return self._transfer(BlkifOp.READ, offset, Operation(nr_bytes))

    def start_write(self, offset: int, data: bytes) -> Operation:
        """Write to the disk."""
        operation = Operation(len(data))
        operation.data[:] = data
        return self._transfer(BlkifOp.WRITE, offset, operation)

    def start_flush(self) -> Operation:
        """Make durable what was written, by whichever way the backend offers; done at once if it offers none."""
        operation, queues = Operation(), self._working()
        offered = [op for key, op in self.quirks.flushes if self._frontend.backend_number(key)]
        if queues is None:
            return operation.fail(errno.EIO)
        if not offered and self.quirks.flush_needed:
            return operation.fail(errno.EOPNOTSUPP)
        if self.quirks.flushes_all_ways and self.read_only:
            return operation
        for op in offered if self.quirks.flushes_all_ways else offered[:1]:
            if op not in queues.withdrawn:
                self._add(operation, BlkifRequest(op, self._handle, 0, 0, 0, ()))
        return operation

    def start_discard(self, offset: int, nr_bytes: int) -> Operation:
        """Say that a range is not needed any more, if backend and frontend know how to."""
        operation, queues = Operation(), self._working()
        if queues is None or self._not_let_through(offset, nr_bytes):
            return operation.fail(errno.EIO)
        wanted = self.quirks.discards and self._frontend.backend_number("feature-discard")
        if wanted and BlkifOp.DISCARD not in queues.withdrawn:
            sector = offset // self._sector_unit
            self._add(operation, DiscardRequest(self._handle, 0, sector, nr_bytes // SECTOR_SIZE))
        return operation

    def read(self, offset: int, nr_bytes: int) -> bytes:
        """As `start_read`, and wait for the end."""
        return self._finish(self.start_read(offset, nr_bytes))

    def write(self, offset: int, data: bytes) -> None:
        """As `start_write`, and wait for the end."""
        self._finish(self.start_write(offset, data))

    def flush(self) -> None:
        """As `start_flush`, and wait for the end."""
        self._finish(self.start_flush())

    def discard(self, offset: int, nr_bytes: int) -> None:
        """As `start_discard`, and wait for the end."""
        self._finish(self.start_discard(offset, nr_bytes))

    def _finish(self, operation: Operation) -> bytes:
        def look() -> bool:
            self.poll()
            return operation.done

        wait_for(look, "the end of an operation")
        if operation.error is not None:
            raise operation.error
        return bytes(operation.data)

    def _working(self) -> Queues | None:
        return None if self._refuses or self._queues is None or self._queues.broken else self._queues

    def _not_let_through(self, offset: int, nr_bytes: int) -> bool:
        """Whether the system above the driver stops it; one that divides by a sector size of 0 goes no further."""
        if self.quirks.asks_unaligned:
            return False
        return self._sector_size == 0 or offset % self._sector_size != 0 or nr_bytes % self._sector_size != 0

    @property
    def _sector_unit(self) -> int:
        return self._sector_size if self.quirks.number_in_sector_size else SECTOR_SIZE

    def _transfer(self, op: BlkifOp, offset: int, operation: Operation) -> Operation:
        queues, nr_bytes = self._working(), len(operation.data)
        if queues is None or self._not_let_through(offset, nr_bytes):
            return operation.fail(errno.EIO)
        data, room = memoryview(operation.data), self._requests.segments_max * PAGE_SIZE
        for at in range(0, nr_bytes, room):
            sector, buffer = (offset + at) // self._sector_unit, data[at : at + room]
            queues.add(operation, functools.partial(self._lend, op, sector, buffer))
        return operation

    def _lend(self, op: BlkifOp, sector: int, buffer: memoryview, number: int) -> Piece:
        return self._requests.lend(op, number, sector, buffer)

    def _add(self, operation: Operation, request: Request) -> None:
        assert self._queues is not None
        empty = memoryview(b"")
        self._queues.add(operation, lambda number: Piece(dataclasses.replace(request, id=number), empty, [], []))


FRONTENDS: Final[Mapping[str, functools.partial[FrontendDouble]]] = {
    name: functools.partial(FrontendDouble, quirks) for name, quirks in QUIRKS.items()
}
"""By name, what makes the frontend of a device: (platform, handle, **options)."""
