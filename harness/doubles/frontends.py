"""Doubles of known frontends: on the wire as these, and slow.

    frontend = FRONTENDS["edk2"](platform, handle)
    frontend.connect()
    frontend.write(0, data)
    frontend.close()

Not doubled: they notify the backend more often than they must, and their requests wait for each other.
"""

import contextlib
import errno
import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, DOM0, PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkif import NATIVE, BlkifOp, BlkifRequest, BlkifResponse, BlkifStatus, DiscardRequest, Request
from xenblk.errors import BlkifPeerError
from xenblk.harness.doubles.frontend_quirks import QUIRKS, FrontendQuirks
from xenblk.harness.doubles.frontend_requests import Piece, Requests
from xenblk.harness.wire.frontend import RawFrontend
from xenblk.harness.wire.ring import RawRing
from xenblk.platform import Platform
from xenblk.xenbus import XenbusState as S

_POINTER: Final = 0xFFFF_8880_0000_0000
_POINTER_STEP: Final = 192


class FrontendDouble:
    """The frontend of device `handle` as `quirks` say. One thread uses it; offsets and lengths are multiples of 512.

    Deadlines are those of xenblk.harness.wire; BlkifPeerError for a backend that breaks the protocol or lacks a node
    that this frontend cannot do without; OSError for what the backend answers with an error.
    """

    def __init__(self, quirks: FrontendQuirks, platform: Platform, handle: int, backend_id: Domid = DOM0) -> None:
        self.quirks = quirks
        self.size = 0
        self.read_only = False
        self._handle = handle
        self._frontend = RawFrontend(platform, handle, backend_id)
        self._rings: list[RawRing] = []
        self._refused: set[str] = set()
        self._numbers = itertools.count()
        self._requests = Requests(self._frontend, handle)

    # Life

    def connect(self) -> None:
        """Shake hands."""
        if self.quirks.waits_for_init_wait:
            self._frontend.await_backend(S.INITWAIT, S.INITIALISED, S.CONNECTED)
        self._rings = self._make_rings()
        self._frontend.write(self._keys())
        self._frontend.switch(self.quirks.published)
        self._frontend.await_backend(S.CONNECTED)
        self._read_properties()
        if self.quirks.published is not S.CONNECTED:
            self._frontend.switch(S.CONNECTED)

    def _make_rings(self) -> list[RawRing]:
        order = min(self.quirks.ring_page_order_max, self._frontend.backend_number("max-ring-page-order"))
        count = min(self.quirks.queues_max, self._frontend.backend_number("multi-queue-max-queues", 1))
        return [self._frontend.ring(NATIVE, order) for _ in range(max(1, count))]

    def _keys(self) -> dict[str, str | None]:
        keys: dict[str, str | None] = dict(self.quirks.keys)
        for at, ring in enumerate(self._rings):
            folder = f"queue-{at}/" if len(self._rings) > 1 else ""
            for key, value in ring.keys().items():
                keys[key if key == "ring-page-order" else folder + key] = value
        if len(self._rings) > 1:
            keys["multi-queue-num-queues"] = str(len(self._rings))
        if self.quirks.writes_protocol:
            keys["protocol"] = NATIVE.protocol
        if self.quirks.persistent:
            keys["feature-persistent"] = "1"
        return keys

    def _read_properties(self) -> None:
        number = self._frontend.backend_number
        for key in ("sectors", "sector-size", "info", *self.quirks.needs):
            if self._frontend.backend_node(key) is None:
                raise BlkifPeerError(f"this frontend cannot do without the backend's node {key}")
        self._sector_size = number("sector-size")
        self.size = number("sectors") * (self._sector_size if self.quirks.size_in_sector_size else SECTOR_SIZE)
        self.read_only = bool(number("info") & 4)
        self._requests.persistent = self.quirks.persistent and number("feature-persistent") == 1
        self._requests.segments_max = max(
            BLKIF_MAX_SEGMENTS_PER_REQUEST,
            min(self.quirks.indirect_segments_max, number("feature-max-indirect-segments")),
        )

    def close(self) -> None:
        """Leave in good order: Closing, Closed, each answered; then give everything back."""
        try:
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
            self._frontend.write(dict.fromkeys(("ring-ref", "event-channel")))

    # Data

    def read(self, offset: int, nr_bytes: int) -> bytes:
        """Read from the disk."""
        data = bytearray(nr_bytes)
        self._transfer(BlkifOp.READ, offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the disk."""
        self._transfer(BlkifOp.WRITE, offset, memoryview(bytearray(data)))

    def flush(self) -> None:
        """Make durable what was written, by whichever way the backend offers; done at once if it offers none."""
        forgiven = (OSError,) if self.quirks.withdraws_refused else ()
        for key, operation in (
            ("feature-flush-cache", BlkifOp.FLUSH_DISKCACHE),
            ("feature-barrier", BlkifOp.WRITE_BARRIER),
        ):
            if self._frontend.backend_number(key) and key not in self._refused:
                with contextlib.suppress(*forgiven):
                    self._ask_if_offered(key, BlkifRequest(operation, self._handle, self._new_id(), 0, 0, ()))
                return

    def discard(self, offset: int, nr_bytes: int) -> None:
        """Say that a range is not needed any more, if backend and frontend know how to."""
        key = "feature-discard"
        if self.quirks.discards and self._frontend.backend_number(key) and key not in self._refused:
            sector, count = self._sector(offset), nr_bytes // SECTOR_SIZE
            self._ask_if_offered(key, DiscardRequest(self._handle, self._new_id(), sector, count))

    def _ask_if_offered(self, key: str, request: Request) -> None:
        try:
            self._ask(self._rings[0], [request])
        except OSError as e:
            if self.quirks.withdraws_refused and (e.errno == errno.EOPNOTSUPP or request.operation != BlkifOp.DISCARD):
                self._refused.add(key)
            raise

    def _transfer(self, operation: BlkifOp, offset: int, data: memoryview) -> None:
        room = self._requests.segments_max * PAGE_SIZE
        pieces = [(offset + at, data[at : at + room]) for at in range(0, data.nbytes, room)]
        rings = itertools.cycle(self._rings)
        while pieces:
            ring = next(rings)
            batch, pieces = pieces[: ring.nr_ents], pieces[ring.nr_ents :]
            with contextlib.ExitStack() as stack:
                lent = [stack.enter_context(self._lent(operation, at, buffer)) for at, buffer in batch]
                self._ask(ring, [piece.request for piece in lent])

    @contextlib.contextmanager
    def _lent(self, operation: BlkifOp, offset: int, buffer: memoryview) -> Iterator[Piece]:
        piece = self._requests.lend(operation, self._new_id(), self._sector(offset), buffer)
        try:
            yield piece
        finally:
            self._requests.take_back(piece)

    def _ask(self, ring: RawRing, requests: list[Request]) -> None:
        for request in requests:
            ring.put(ring.abi.pack_request(request))
        ring.publish()
        sent = {request.id: request for request in requests}
        for answer in ring.take(len(requests)):
            _check(answer, sent)

    def _sector(self, offset: int) -> int:
        return offset // (self._sector_size if self.quirks.number_in_sector_size else SECTOR_SIZE)

    def _new_id(self) -> int:
        number = next(self._numbers)
        ring_size = self._rings[0].nr_ents
        return _POINTER + number * _POINTER_STEP if self.quirks.pointer_ids else number % ring_size


def _check(answer: BlkifResponse, sent: dict[int, Request]) -> None:
    request = sent.pop(answer.id, None)
    if request is None:
        raise BlkifPeerError(f"a response has id {answer.id:#x}, which is no request's")
    expected = getattr(request, "indirect_op", request.operation)
    if answer.operation != expected:
        raise BlkifPeerError(f"a response names operation {answer.operation}, its request {expected}")
    if answer.status != BlkifStatus.OKAY:
        number = errno.EOPNOTSUPP if answer.status == BlkifStatus.EOPNOTSUPP else errno.EIO
        raise OSError(number, os.strerror(number))


FRONTENDS: Final[Mapping[str, functools.partial[FrontendDouble]]] = {
    name: functools.partial(FrontendDouble, quirks) for name, quirks in QUIRKS.items()
}
"""By name, what makes the frontend of a device: (platform, handle)."""
