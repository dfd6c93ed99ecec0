"""The address space that granted pages are mapped into: a table of slots, each a page, the lowest free one first."""

import threading

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.errors import GrantError, UsageError
from xenblk.grants.slots import Slots
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
        self._slots = Slots(nr_pages)
        self._lock = threading.Lock()

    def allocate(self) -> int:
        """The lowest free slot; GrantError when there is none."""
        return self.allocate_run(1)

    def allocate_batch(self, nr_pages: int) -> list[int]:
        """The lowest free slots, in order; GrantError, and nothing taken, when there are not so many."""
        slots: list[int] = []
        with self._lock:
            for _ in range(nr_pages):
                slot = self._slots.allocate()
                if slot is None:
                    self._cancel(slots)
                    raise _no_space(f"{nr_pages} pages", self._nr_pages)
                slots.append(slot)
        return slots

    def _cancel(self, slots: list[int]) -> None:
        for slot in reversed(slots):
            self._slots.cancel(slot)

    def allocate_run(self, nr_pages: int) -> int:
        """The first of `nr_pages` free slots in a row; GrantError when there is no such run."""
        with self._lock:
            first = self._slots.allocate_run(nr_pages)
        if first is None:
            raise _no_space(f"{nr_pages} pages in a row", self._nr_pages)
        return first

    def free(self, *slots: int) -> None:
        """Take slots back; nothing is mapped there any more. It looks at every slot that is taken, so give many."""
        if slots:
            with self._lock:
                self._slots.free(slots)

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
        self._slots._check()


def _no_space(needed: str, nr_pages: int) -> GrantError:
    return GrantError(f"{needed} are needed of the mapping arena, which has {nr_pages}", GrantStatus.NO_SPACE)
