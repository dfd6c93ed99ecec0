"""A shared ring by hand: every index and every byte of a slot is the caller's to set and to see.

Its pages may lie apart, so that an entry across a page boundary is in two places; slots are copied in pieces. Nothing
is published, and nobody notified, but by `publish`.
"""

import threading
from typing import Final

from xenblk.abi import PAGE_SIZE, Domid, GrantRef
from xenblk.blkif import Abi, BlkifResponse
from xenblk.grants import Page
from xenblk.harness.wire.deadline import wait_for
from xenblk.platform import Platform
from xenblk.ring import SRING_HEADER_SIZE, entry_offset, ring_entries

_REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT = range(4)
U32: Final = 0xFFFFFFFF


class RawRing:
    """The pages of a ring, granted to `backend`, and an event channel that it may bind to.

    `start` is where all indexes begin. `put` and `rsp_cons` keep private indexes; nothing checks them.
    """

    def __init__(
        self, platform: Platform, backend: Domid, abi: Abi, order: int = 0, *, scattered: bool = True, start: int = 0
    ) -> None:
        self.abi = abi
        self.order = order
        self.nr_ents = ring_entries(order, abi.entry_size)
        self._platform = platform
        self.pages = _allocate(platform, 1 << order, scattered)
        self.refs = platform.grant_table.grant(backend, [page.frame for page in self.pages])
        self.channel = platform.alloc_unbound(backend)
        self._header = self.pages[0].view[:SRING_HEADER_SIZE].cast("I")
        self.req_prod_pvt = self.rsp_cons = start & U32
        self.req_prod = self.rsp_prod = start
        self.req_event = self.rsp_event = start + 1
        self._fence = threading.Lock()

    @property
    def req_prod(self) -> int:
        """How many requests were published."""
        return self._header[_REQ_PROD]

    @req_prod.setter
    def req_prod(self, value: int) -> None:
        self._header[_REQ_PROD] = value & U32

    @property
    def req_event(self) -> int:
        """The request that the backend wants to be notified of."""
        return self._header[_REQ_EVENT]

    @req_event.setter
    def req_event(self, value: int) -> None:
        self._header[_REQ_EVENT] = value & U32

    @property
    def rsp_prod(self) -> int:
        """How many responses the backend published."""
        return self._header[_RSP_PROD]

    @rsp_prod.setter
    def rsp_prod(self, value: int) -> None:
        self._header[_RSP_PROD] = value & U32

    @property
    def rsp_event(self) -> int:
        """The response that we want to be notified of."""
        return self._header[_RSP_EVENT]

    @rsp_event.setter
    def rsp_event(self, value: int) -> None:
        self._header[_RSP_EVENT] = value & U32

    @property
    def responses_waiting(self) -> int:
        """Published responses that were not taken."""
        return (self.rsp_prod - self.rsp_cons) & U32

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the ring, wherever its pages are."""
        return b"".join(bytes(piece) for piece in self._pieces(offset, count))

    def write(self, offset: int, data: bytes) -> None:
        """Set bytes of the ring."""
        at = 0
        for piece in self._pieces(offset, len(data)):
            piece[:] = data[at : at + piece.nbytes]
            at += piece.nbytes

    def _pieces(self, offset: int, count: int) -> list[memoryview]:
        pieces = []
        while count:
            page, within = divmod(offset, PAGE_SIZE)
            piece = self.pages[page].view[within : min(within + count, PAGE_SIZE)]
            pieces.append(piece)
            offset += piece.nbytes
            count -= piece.nbytes
        return pieces

    def slot_offset(self, index: int) -> int:
        """Where the slot of a free-running index starts."""
        return entry_offset(index, self.nr_ents, self.abi.entry_size)

    def slot(self, index: int) -> bytes:
        """The bytes of a slot."""
        return self.read(self.slot_offset(index), self.abi.entry_size)

    def fill(self, byte: int) -> None:
        """Set every byte behind the header."""
        rest = len(self.pages) * PAGE_SIZE - SRING_HEADER_SIZE
        self.write(SRING_HEADER_SIZE, bytes([byte]) * rest)

    def put(self, slot: bytes) -> None:
        """Write the next slot; `publish` makes it a request."""
        self.write(self.slot_offset(self.req_prod_pvt), slot)
        self.req_prod_pvt = (self.req_prod_pvt + 1) & U32

    def publish(self, *, notify: bool = True) -> None:
        """Publish what was put."""
        self.req_prod = self.req_prod_pvt
        if notify:
            self.channel.notify()

    def push(self) -> None:
        """Publish what was put, and notify if the backend's event index asks for it."""
        old = self.req_prod
        self.req_prod = self.req_prod_pvt
        with (
            self._fence
        ):  # a full fence: req_prod is out before req_event is read; the backend: req_event, then req_prod
            pass
        if ((self.req_prod_pvt - self.req_event) & U32) < ((self.req_prod_pvt - old) & U32):
            self.channel.notify()

    @property
    def free_slots(self) -> int:
        """How many requests can be put before one of those that were sent is answered."""
        return self.nr_ents - ((self.req_prod_pvt - self.rsp_cons) & U32)

    def take_slots(self, count: int, timeout_s: float | None = None) -> list[bytes]:
        """The bytes of the next `count` response slots, once they are published. DeadlineError if they are not."""
        wait_for(lambda: self.responses_waiting >= count, f"{count} responses", timeout_s)
        slots = [self.slot(self.rsp_cons + at) for at in range(count)]
        self.rsp_cons = (self.rsp_cons + count) & U32
        return slots

    def take(self, count: int, timeout_s: float | None = None) -> list[BlkifResponse]:
        """The next `count` responses."""
        return [self.abi.parse_response(slot) for slot in self.take_slots(count, timeout_s)]

    def drain_events(self) -> None:
        """Take the event that is pending, such as the one that binding sends."""
        while self.channel.wait(0):
            pass

    def keys(self) -> dict[str, str]:
        """The nodes that lead to this ring, without `protocol`: those of one page, or of 2^order."""
        nodes = {"event-channel": str(self.channel.port)}
        if self.order == 0:
            return {**nodes, "ring-ref": str(self.refs[0])}
        refs = {f"ring-ref{at}": str(ref) for at, ref in enumerate(self.refs)}
        return {**nodes, "ring-page-order": str(self.order), **refs}

    def close(self) -> None:
        """Close the channel and end what access can be ended; a page that is still mapped stays granted."""
        self.channel.close()
        for page, ref in zip(self.pages, self.refs, strict=True):
            end_access(self._platform, page, ref)


def end_access(platform: Platform, page: Page, ref: GrantRef) -> bool:
    """End access to a page and give it back, unless it is still mapped; whether it was."""
    if not platform.grant_table.end_access(ref):
        return False
    platform.memory.free_page(page)
    return True


def _allocate(platform: Platform, count: int, scattered: bool) -> list[Page]:
    if not scattered:
        return platform.memory.allocate_run(count)
    pages = [platform.memory.allocate_page() for _ in range(2 * count)]
    for page in pages[1::2]:
        platform.memory.free_page(page)
    return pages[0::2][::-1]
