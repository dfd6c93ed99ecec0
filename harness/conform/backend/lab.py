"""What a case about a backend works with: guests of its own, each with a disk that the tested backend serves."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import (
    X86_64,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    BlkifStatus,
    Request,
)
from xenblk.harness.conform.case import Registry, expect, require
from xenblk.harness.conform.xen import Xen
from xenblk.harness.wire.deadline import wait_for
from xenblk.harness.wire.frontend import GrantedPage, RawFrontend
from xenblk.harness.wire.ring import RawRing
from xenblk.platform import Platform
from xenblk.vdev import parse_vdev
from xenblk.xenbus import XenbusState

HANDLE: Final = parse_vdev("xvda")
QUIET_S: Final = 0.05
"""How long to watch for what must not happen."""

S = XenbusState


class Guest:
    """A domain with one disk. `frontend` is its frontend by hand, `ring` the ring that `connect` made."""

    ring: RawRing

    def __init__(self, xen: Xen, platform: Platform, params: str, handle: int) -> None:
        self.xen = xen
        self.platform = platform
        self.params = params
        self.handle = self.request_handle = handle
        self.frontend = RawFrontend(platform, handle, xen.backend_id)
        self._next_id = 1

    # Life

    def attach(
        self, mode: str | None = "w", *, front: Mapping[str, str | None] | None = None, **back: str | None
    ) -> "Guest":
        """Make the device's nodes; `_` in a key stands for `-`. The frontend's are those of libxl, and `front`."""
        changes = {key.replace("_", "-"): value for key, value in back.items()}
        nodes = {**self.xen.disk_nodes(self.params), "mode": mode, **changes}
        self.xen.attach(self.platform.domid, self.handle, nodes, front or {})
        return self

    def offered(self) -> "Guest":
        """Wait until the backend is in InitWait."""
        self.frontend.await_backend(S.INITWAIT)
        return self

    def publish(
        self,
        abi: Abi = X86_64,
        order: int = 0,
        *,
        persistent: bool | None = None,
        start: int = 0,
        state: XenbusState | None = S.INITIALISED,
        keys: Mapping[str, str | None] | None = None,
    ) -> "Guest":
        """A new ring, its keys and `protocol` with changes, then the state."""
        self.ring = self.frontend.ring(abi, order, start=start)
        self.frontend.write({**self.keys(persistent), **(keys or {})})
        if state is not None:
            self.frontend.switch(state)
        return self

    def keys(self, persistent: bool | None = None) -> dict[str, str | None]:
        """The keys that lead to the ring, without what an earlier ring may have left."""
        stale: dict[str, str | None] = dict.fromkeys(
            ["ring-ref", "ring-page-order", *(f"ring-ref{i}" for i in range(16))]
        )
        negotiated = None if persistent is None else str(int(persistent))
        return {**stale, **self.ring.keys(), "protocol": self.ring.abi.protocol, "feature-persistent": negotiated}

    def connect(
        self,
        abi: Abi = X86_64,
        order: int = 0,
        *,
        persistent: bool | None = None,
        start: int = 0,
        keys: Mapping[str, str | None] | None = None,
    ) -> "Guest":
        """Connected, as an honest frontend does it."""
        self.offered().publish(abi, order, persistent=persistent, start=start, keys=keys)
        return self.served()

    def served(self) -> "Guest":
        """Wait until the backend is Connected, and be it, too."""
        self.frontend.await_backend(S.CONNECTED)
        self.frontend.switch(S.CONNECTED)
        return self

    def refused(self) -> None:
        """The backend must go to Closing or Closed, and hold nothing."""
        self.frontend.await_backend(S.CLOSING, S.CLOSED)
        self.nothing_mapped("a frontend that is refused")

    def disconnect(self) -> None:
        """Close in good order; then nothing is mapped."""
        self.frontend.switch(S.CLOSING)
        self.frontend.await_backend(S.CLOSING, S.CLOSED)
        self.frontend.switch(S.CLOSED)
        self.frontend.await_backend(S.CLOSED)
        self.nothing_mapped("Closed")

    def start_over(self) -> None:
        """From Closed back to where a ring may be published."""
        self.frontend.switch(S.INITIALISING)
        self.offered()

    def nothing_mapped(self, when: str) -> None:
        """The backend must let go of every page. Where nobody can see that, this sees nothing: `need_sight`."""
        if self.sees_mappings:
            wait_for(lambda: self.frontend.mapped_pages() == 0, f"the backend to unmap every page: {when}")

    def nothing_but_the_ring_mapped(self, why: str) -> None:
        """No data page may be mapped now, after a response."""
        mapped = sum(self.maps(page) for page in self.frontend.pages)
        expect(mapped == 0, f"{mapped} pages of data are still mapped after the responses, though {why}")

    @property
    def sees_mappings(self) -> bool:
        """Whether this platform shows who maps a page."""
        return self.platform.grant_table.sees_mappings

    def need_sight(self) -> None:
        """The case is about nothing but what is mapped: it cannot be run where that cannot be seen."""
        require(self.sees_mappings, "who maps a page cannot be seen on this platform")

    def maps(self, page: GrantedPage) -> bool:
        """Whether the backend is seen to have it mapped."""
        return self.sees_mappings and page.mapped

    # Requests

    def new_id(self) -> int:
        """An id that no other request of this guest has."""
        self._next_id += 1
        return self._next_id

    def request(
        self, operation: int, *segments: BlkifSegment, sector: int = 0, nr_segments: int | None = None
    ) -> BlkifRequest:
        """A request; `nr_segments` may lie."""
        count = len(segments) if nr_segments is None else nr_segments
        return BlkifRequest(operation, self.request_handle, self.new_id(), sector, count, segments)

    def put(self, *requests: Request | bytes) -> None:
        """Write requests, or the bytes of slots, to the ring; nobody sees them yet."""
        for request in requests:
            self.ring.put(request if isinstance(request, bytes) else self.ring.abi.pack_request(request))

    def ask(self, *requests: Request | bytes, timeout_s: float | None = None) -> list[BlkifResponse]:
        """Publish requests and wait for as many responses."""
        self.put(*requests)
        self.ring.publish()
        return self.ring.take(len(requests), timeout_s)

    def answered(self, request: Request, status: int = BlkifStatus.OKAY, operation: int | None = None) -> None:
        """The request must be answered with its id, this status, and its operation unless another is said."""
        if status == BlkifStatus.OKAY and isinstance(request, BlkifRequest):
            self._need_sectors_of(request)
        (answer,) = self.ask(request)
        expected = request.operation if operation is None else operation
        expect(answer.id == request.id, f"request {request.id:#x} was answered with id {answer.id:#x}")
        expect(answer.operation == expected, f"operation {expected} was answered with operation {answer.operation}")
        expect(
            answer.status == status,
            f"the status of operation {request.operation} must be {_status(status)}, not {_status(answer.status)}",
        )

    def need_small_sectors(self) -> None:
        """The case is to have sectors of 512 bytes moved: on a disk of larger ones that has to fail."""
        size = self.number("sector-size", SECTOR_SIZE)
        require(size == SECTOR_SIZE, f"sector-size is {size}, and sectors of {SECTOR_SIZE} bytes are moved")

    def _need_sectors_of(self, request: BlkifRequest) -> None:
        bounds = [bound for s in request.segments for bound in (s.first_sect, s.last_sect + 1)]
        if any(at % PAGE_SECTORS for at in (request.sector_number, *bounds)):
            self.need_small_sectors()

    # Data

    def write(self, sector: int, data: bytes, operation: BlkifOp = BlkifOp.WRITE) -> None:
        """Write up to 11 pages of data."""
        pages = self.frontend.pages_of(data)
        self.answered(self.request(operation, *whole_segments(pages, len(data)), sector=sector))

    def read(self, sector: int, count: int) -> bytes:
        """Read up to 11 pages of data: `count` bytes."""
        pages = self.frontend.pages_of(b"\xee" * count)
        self.answered(self.request(BlkifOp.READ, *whole_segments(pages, count), sector=sector))
        return b"".join(bytes(page.view) for page in pages)[:count]

    def holds(self, sector: int, data: bytes) -> None:
        """The disk must hold this data."""
        expect(self.read(sector, len(data)) == data, f"the disk does not hold what was written at sector {sector}")

    def works(self) -> None:
        """A write and a read must work."""
        data = os.urandom(PAGE_SIZE)
        self.write(0, data)
        self.holds(0, data)

    # Nodes

    @property
    def sectors(self) -> int:
        """The disk's size."""
        return self.frontend.backend_number("sectors")

    def number(self, key: str, default: int = 0) -> int:
        """A node of the backend's that is a number."""
        return self.frontend.backend_number(key, default)

    def require(self, key: str, at_least: int = 1) -> None:
        """The case is about something that the backend must offer in node `key`."""
        text = self.frontend.backend_node(key)
        number = int(text) if text is not None and text.isdecimal() else 0
        require(number >= at_least, f"the backend's node {key} is {text}, and at least {at_least} is needed")

    def end(self) -> None:
        """Let the backend go, then give everything back."""
        with contextlib.suppress(Exception):  # whatever state a case left behind
            self.frontend.switch(S.CLOSED)
            self.xen.store.write(f"{self.frontend.backend_path}/online", "0")
            self.frontend.await_backend(S.CLOSED, S.UNKNOWN, timeout_s=1.0)
        self.frontend.close()
        self.xen.remove(self.platform.domid, self.handle)


def whole_segments(pages: Sequence[GrantedPage], count: int) -> list[BlkifSegment]:
    """Segments for `count` bytes from the start of the first page on."""
    left = count // SECTOR_SIZE
    return [page.segment(0, min(left - at * 8, 8) - 1) for at, page in enumerate(pages)]


def _status(number: int) -> str:
    known = {int(status): status.name for status in BlkifStatus}
    return known.get(number, str(number))


class Lab:
    """Makes guests; `close` ends them all. `params` is the disk of those that do not say another."""

    def __init__(self, xen: Xen, params: str) -> None:
        self.xen = xen
        self.params = params
        self._undo = contextlib.ExitStack()

    def guest(self, params: str | None = None, handle: int = HANDLE, beside: Guest | None = None) -> Guest:
        """A new domain, or one more device of the domain of the guest `beside`; no nodes yet."""
        platform = self._undo.enter_context(self.xen.guest()) if beside is None else beside.platform
        guest = Guest(self.xen, platform, params or self.params, self.xen.handle(handle))
        self._undo.callback(guest.end)
        return guest

    def connected(
        self,
        abi: Abi = X86_64,
        order: int = 0,
        *,
        persistent: bool | None = None,
        mode: str = "w",
        start: int = 0,
    ) -> Guest:
        """A guest whose disk is connected. NotOfferedError if the backend does not offer rings of that order."""
        guest = self.guest().attach(mode).offered()
        if order:
            guest.require("max-ring-page-order", order)
        return guest.connect(abi, order, persistent=persistent, start=start)

    def image(self, nr_bytes: int) -> Path:
        """A sparse file to serve as a disk."""
        folder = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="xenblk-conform-"))
        path = Path(folder) / "disk"
        path.touch()
        os.truncate(path, nr_bytes)
        return path

    def resize(self, image: Path, nr_bytes: int) -> None:
        """Give such a file another size."""
        os.truncate(image, nr_bytes)
        self.xen.resized(image)

    def need_own_guests(self) -> None:
        """The case is about a domain that dies, or that may not do everything."""
        require(self.xen.has_own_guests, "there is no domain but this one, which may do everything and cannot die")

    def close(self) -> None:
        """End all guests."""
        self._undo.close()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


BACKEND: Final[Registry[Lab]] = Registry()
"""The cases for backends."""

PAGE_SECTORS: Final = PAGE_SIZE // SECTOR_SIZE
