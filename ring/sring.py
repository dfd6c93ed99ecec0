"""The two ends of a shared ring, over any writable memory: FrontRing puts requests, BackRing answers them.

The ends mirror each other: `put`, `push`, `consume`, `final_check`. To enqueue: put, put, ..., then `push`, and notify
the peer if it says so. Before sleeping: `final_check`; sleep only if it says there is no work.

An end belongs to one thread at a time. It keeps the memory object of its page alive, but not mapped: whoever unmaps the
page drops the ring first. Source: io/ring.h; the rules of the indexes are in sring.h, the memory ordering in sring.c.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.errors import RingPeerError, UsageError, WouldBlockError
from xenblk.ring.layout import ring_entries, ring_order


@dataclasses.dataclass(frozen=True, slots=True)
class RingStatistics:
    """What one end has done since it was made; `pushes` is the sum of the last two."""

    requests: int
    """Put by a FrontRing, consumed by a BackRing."""
    responses: int
    """Consumed by a FrontRing, put by a BackRing."""
    pushes: int
    """Calls of `push` that published something."""
    notify_asked: int
    """Pushes that asked for a notification."""
    notify_held: int
    """Pushes that the peer's event index made silent."""


class _Ring:
    """What both ends have in common: the page, the private half, a buffer for private copies."""

    def __init__(self, struct_name: str, page: memoryview, entry_size: int) -> None:
        # The address is taken once and a view of our own keeps the memory: a from_buffer that lives on in a reference
        # cycle with its memoryview crashes Python 3.11's garbage collector.
        self._page = page[:]
        with ffi.from_buffer(page, require_writable=True) as buffer:
            self._shared = ffi.cast("uint8_t *", buffer)
        if int(ffi.cast("uintptr_t", self._shared)) % PAGE_SIZE:
            raise UsageError(f"a ring starts at a multiple of {PAGE_SIZE} bytes in memory, this one does not")
        self.max_ents: Final = ring_entries(ring_order(page.nbytes), entry_size)
        self.entry_size: Final = entry_size
        self._private = ffi.new(f"struct {struct_name} *")
        self._copy = ffi.new("uint8_t[]", entry_size)
        self._copied = ffi.buffer(self._copy)

    @property
    def native(self) -> Any:
        """The private half, for a native engine that has this end to itself."""
        return self._private

    @property
    def nr_pages(self) -> int:
        """Pages of the ring."""
        return self._page.nbytes // PAGE_SIZE

    @property
    def nr_ents(self) -> int:
        """Number of slots, a power of two."""
        return int(self._private.nr_ents)

    def statistics(self) -> RingStatistics:
        """Counts since this end was made."""
        counts = self._private.statistics
        return RingStatistics(*(int(getattr(counts, field.name)) for field in dataclasses.fields(RingStatistics)))

    def _require_entry(self, entry: bytes) -> None:
        if len(entry) != self.entry_size:
            raise UsageError(f"an entry of this ring has {self.entry_size} bytes, not {len(entry)}")


class FrontRing(_Ring):
    """The frontend's end. It makes the ring: all of `page` is zeroed and the indexes set.

    `page`: 1, 2, 4, 8 or 16 pages of contiguous, page-aligned, writable memory. `entry_size`: bytes of the larger of
    request and response. `nr_ents`: fewer slots than fit, a power of two, for a backend that also knows of it.
    UsageError for anything else.
    """

    def __init__(self, page: memoryview, entry_size: int, *, nr_ents: int | None = None) -> None:
        super().__init__("xb_front_ring", page, entry_size)
        count = self.max_ents if nr_ents is None else nr_ents
        if not 0 < count <= self.max_ents or count & (count - 1):
            raise UsageError(f"nr_ents is a power of two up to {self.max_ents} here, not {count}")
        lib.xb_front_ring_init(self._private, self._shared, page.nbytes, count, entry_size)

    @property
    def free_slots(self) -> int:
        """Requests that `put` takes before it raises."""
        return lib.xb_front_ring_free_slots(self._private)

    @property
    def outstanding(self) -> int:
        """Requests put whose response is not consumed."""
        return self.nr_ents - self.free_slots

    def put(self, request: bytes) -> None:
        """Copy `request` into the next slot, where the backend sees it after `push`. WouldBlockError when full."""
        self._require_entry(request)
        if not lib.xb_front_ring_put(self._private, request):
            raise WouldBlockError(f"all {self.nr_ents} slots of the ring hold requests without a response")

    def push(self) -> bool:
        """Publish what was put. True: notify the backend."""
        return bool(lib.xb_front_ring_push(self._private))

    def consume(self) -> bytes | None:
        """A private copy of the next response, or None. RingPeerError, then and ever after, for a bogus rsp_prod."""
        found = lib.xb_front_ring_consume(self._private, self._copy)
        if found == lib.XB_RING_BROKEN:
            raise self.broken()
        return self._copied[:] if found else None

    def final_check(self) -> bool:
        """Before sleeping. True: there is work, call `consume`; False: the backend will notify of the next response."""
        return bool(lib.xb_front_ring_final_check(self._private))

    def broken(self) -> RingPeerError:
        """What `consume` raises once the backend published an impossible index."""
        ring = self._private
        return RingPeerError(
            f"the backend published rsp_prod {ring.bogus}; it may be from rsp_cons {ring.rsp_cons} "
            f"to req_prod {ring.req_prod_pushed}, no response without a request"
        )

    def _check(self) -> None:
        """Abort unless the private indexes stand in order."""
        lib.xb_front_ring_check(self._private)


class BackRing(_Ring):
    """The backend's end. It attaches where the last backend left off: unanswered requests are there to be consumed.

    `page`, `entry_size`: as the frontend made the ring. RingPeerError if more requests are unanswered than fit;
    UsageError for a page that is none.
    """

    def __init__(self, page: memoryview, entry_size: int) -> None:
        super().__init__("xb_back_ring", page, entry_size)
        if lib.xb_back_ring_attach(self._private, self._shared, self.max_ents, entry_size) == lib.XB_RING_BROKEN:
            raise self.broken()

    @property
    def rsp_prod(self) -> int:
        """Index of the next response to be put."""
        return int(self._private.rsp_prod_pvt)

    @property
    def req_cons(self) -> int:
        """Index of the next request to be consumed."""
        return int(self._private.req_cons)

    def restore(self, requests: Sequence[bytes]) -> None:
        """Before anything is consumed: have these requests, which a dead backend consumed and did not answer, stand at
        the head of those that wait. RingPeerError if fewer requests than these are without an answer.
        """
        for request in requests:
            self._require_entry(request)
        if lib.xb_back_ring_restore(self._private, b"".join(requests), len(requests)) == lib.XB_RING_BROKEN:
            raise RingPeerError(f"{len(requests)} requests of this ring are unanswered, and it says that fewer are")

    @property
    def unanswered(self) -> int:
        """Requests consumed whose response is not put."""
        return int(self._private.req_cons - self._private.rsp_prod_pvt) & 0xFFFFFFFF

    def put(self, response: bytes) -> None:
        """Copy `response` over the oldest unanswered request, where the frontend sees it after `push`.

        UsageError if every consumed request has its response.
        """
        self._require_entry(response)
        if not lib.xb_back_ring_put(self._private, response):
            raise UsageError("a response needs a consumed request that has none yet")

    def push(self) -> bool:
        """Publish what was put. True: notify the frontend."""
        return bool(lib.xb_back_ring_push(self._private))

    def consume(self) -> bytes | None:
        """A private copy of the next request, or None. RingPeerError, then and ever after, for a bogus req_prod."""
        found = lib.xb_back_ring_consume(self._private, self._copy)
        if found == lib.XB_RING_BROKEN:
            raise self.broken()
        return self._copied[:] if found else None

    def look(self) -> bool:
        """Whether `consume` would return something; asks for no notification. RingPeerError as `consume`."""
        found = bool(lib.xb_back_ring_look(self._private))
        if self._private.broken:
            raise self.broken()
        return found

    def final_check(self) -> bool:
        """Before sleeping. True: there is work, call `consume`; False: the frontend will notify of the next request."""
        return bool(lib.xb_back_ring_final_check(self._private))

    def broken(self) -> RingPeerError:
        """What `consume` raises once the frontend published an impossible index."""
        ring = self._private
        last = (ring.rsp_prod_pvt + ring.nr_ents) & 0xFFFFFFFF
        return RingPeerError(
            f"the frontend published req_prod {ring.bogus}; it may be from req_cons {ring.req_cons} to {last}, "
            f"{ring.nr_ents} requests after the last response"
        )

    def _check(self) -> None:
        """Abort unless the private indexes stand in order."""
        lib.xb_back_ring_check(self._private)
