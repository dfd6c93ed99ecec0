"""The address space that granted pages are mapped into: fixed pages, the lowest free one handed out first."""

import heapq
import threading

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.errors import GrantError, UsageError
from xenblk.grants.status import GrantStatus


class Arena:
    """`nr_pages` pages of reserved addresses. Slots never move: requests in flight point into them.

    A slot's memory may be touched only while something is mapped there; that is its user's business.
    """

    def __init__(self, nr_pages: int) -> None:
        self._nr_pages = nr_pages
        self._base = lib.xb_arena_reserve(nr_pages)
        if self._base == ffi.NULL:
            raise UsageError(f"there is no room to reserve {nr_pages} pages of address space")
        self._address = int(ffi.cast("uintptr_t", self._base))
        self._memory = memoryview(ffi.buffer(self._base, nr_pages * PAGE_SIZE))
        self._free: list[int] = []
        self._next = 0
        self._lock = threading.Lock()

    def allocate(self) -> int:
        """The lowest free slot; GrantError when there is none."""
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            return self._grow(1)

    def allocate_run(self, nr_pages: int) -> int:
        """The first of `nr_pages` free slots in a row; GrantError when there is no such run."""
        assert nr_pages > 0
        with self._lock:
            ordered = sorted(self._free)
            for i in range(len(ordered) - nr_pages + 1):
                if ordered[i + nr_pages - 1] == ordered[i] + nr_pages - 1:
                    self._free = ordered[:i] + ordered[i + nr_pages :]
                    return ordered[i]
            return self._grow(nr_pages)

    def _grow(self, nr_pages: int) -> int:
        first = self._next
        if first + nr_pages > self._nr_pages:
            raise GrantError(
                f"{nr_pages} pages in a row are needed of the mapping arena, which has {self._nr_pages}",
                GrantStatus.NO_SPACE,
            )
        self._next = first + nr_pages
        return first

    def free(self, slot: int) -> None:
        """Take a slot back; nothing is mapped there any more."""
        with self._lock:
            assert 0 <= slot < self._next
            heapq.heappush(self._free, slot)

    def page(self, slot: int) -> memoryview:
        """The 4096 bytes of a slot."""
        return self.view(slot)

    def address(self, slot: int) -> int:
        """Where a slot is."""
        return self._address + slot * PAGE_SIZE

    def view(self, slot: int, nr_pages: int = 1) -> memoryview:
        """The memory of a slot and those after it."""
        return self._memory[slot * PAGE_SIZE : (slot + nr_pages) * PAGE_SIZE]

    def close(self) -> None:
        """Give the address space back; once is enough."""
        if self._base != ffi.NULL:
            self._memory.release()
            lib.xb_arena_release(self._base, self._nr_pages)
            self._base = ffi.NULL

    def _check(self) -> None:
        assert len(set(self._free)) == len(self._free)
        assert all(0 <= slot < self._next for slot in self._free)
