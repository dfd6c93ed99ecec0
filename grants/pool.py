"""The frontend's pool of pages to bounce requests through, in the order that Linux keeps it (xen-blkfront.c).

    head                                                    tail
    [still mapped by the backend ...][... granted to nobody]

A page that the backend keeps mapped goes back to the head and is taken first the next time, so that the backend finds
it mapped; a page whose access could be ended goes to the tail. The pages in use at once are thus the only ones that are
ever granted: the backend's working set is their largest number, not the pool's size.
"""

import collections
import dataclasses
import functools
from typing import Protocol

from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError, WouldBlockError
from xenblk.grants.table import GrantTable


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A page of the domain's memory: its frame number and its 4096 bytes."""

    frame: int
    view: memoryview


class PageSource(Protocol):
    """Where the pool's pages come from."""

    def allocate_page(self) -> Page:
        """One zeroed page."""

    def free_page(self, page: Page) -> None:
        """Take a page back."""


@dataclasses.dataclass(eq=False, slots=True)
class PoolEntry:
    """One page of the pool; `gref` is None while it is granted to nobody."""

    page: Page
    gref: GrantRef | None = None


def allocate_pages(memory: PageSource, count: int) -> list[Page]:
    """So many zeroed pages, or none: the source's error."""
    pages: list[Page] = []
    try:
        while len(pages) < count:
            pages.append(memory.allocate_page())
    except Exception:
        for page in pages:
            memory.free_page(page)
        raise
    return pages


class GrantPool:
    """`size` zeroed pages to grant to `domid`. Not thread-safe: the ring's lock is its lock.

    Grants are read-write always, for writes to the disk too: a backend that keeps them maps them writable.
    """

    def __init__(self, table: GrantTable, memory: PageSource, domid: Domid, size: int) -> None:
        self._table = table
        self._memory = memory
        self._domid = domid
        self._free = collections.deque(PoolEntry(page) for page in allocate_pages(memory, size))
        self._taken: set[PoolEntry] = set()
        self._reserved: list[GrantRef] = []
        self.persistent_gnts_c = 0

    def reserve(self, nr_pages: int) -> None:
        """Make sure that `nr_pages` can be taken; WouldBlockError if pages or references are lacking.

        The references are the pool's from now on: other rings of the domain allocate from the same table. What the
        request does not need goes back to the table with the next call.
        """
        if len(self._free) < nr_pages:
            raise WouldBlockError(f"{nr_pages} pool pages are needed, {len(self._free)} are free")
        new_refs = max(0, nr_pages - self.persistent_gnts_c)
        self._give_back(len(self._reserved) - new_refs)
        try:
            while len(self._reserved) < new_refs:
                self._reserved.append(self._table.allocate())
        except GrantError as error:
            self._give_back(len(self._reserved))
            raise WouldBlockError(f"{new_refs} grant references are needed: {error}") from error

    def _give_back(self, nr_refs: int) -> None:
        for _ in range(nr_refs):
            self._table.free(self._reserved.pop())

    def take(self) -> PoolEntry:
        """The page at the head, granted; WouldBlockError or GrantError if it was not reserved and there is none."""
        if not self._free:
            raise WouldBlockError(f"all {len(self._taken)} pool pages are in use")
        entry = self._free[0]
        if entry.gref is None:
            entry.gref = self._reserved.pop() if self._reserved else self._table.allocate()
            self._table.grant_access(entry.gref, self._domid, entry.page.frame)
        else:
            self.persistent_gnts_c -= 1
        self._taken.add(self._free.popleft())
        return entry

    def put_back(self, entry: PoolEntry) -> bool:
        """Take a page back after its request; True if the backend still maps it."""
        self._taken.remove(entry)
        if not self._end_access(entry):
            self._free.appendleft(entry)
            self.persistent_gnts_c += 1
            return True
        self._free.append(entry)
        return False

    def _end_access(self, entry: PoolEntry) -> bool:
        assert entry.gref is not None
        if not self._table.end_access(entry.gref):
            return False
        self._table.free(entry.gref)
        entry.gref = None
        return True

    def trim(self) -> int:
        """End the grants of free pages that the backend let go of meanwhile; how many that were. Linux: every 10 s."""
        granted = [self._free.popleft() for _ in range(self.persistent_gnts_c)]
        kept = [entry for entry in granted if not self._end_access(entry)]
        self._free.extend(entry for entry in granted if entry.gref is None)
        self._free.extendleft(reversed(kept))
        self.persistent_gnts_c = len(kept)
        return len(granted) - len(kept)

    def close(self) -> list[PoolEntry]:
        """End every grant and give the pages back; returns the entries that are still mapped.

        These stay granted, and go back when the backend lets go of them (GrantTable.end_deferred).
        """
        self._give_back(len(self._reserved))
        mapped = []
        for entry in (*self._free, *self._taken):
            if entry.gref is None or self._end_access(entry):
                self._memory.free_page(entry.page)
            else:
                self._table.end_access_later(entry.gref, functools.partial(self._memory.free_page, entry.page))
                mapped.append(entry)
        self._free.clear()
        self._taken.clear()
        self.persistent_gnts_c = 0
        return mapped

    def _check(self) -> None:
        granted = [entry.gref is not None for entry in self._free]
        assert granted == sorted(granted, reverse=True), "granted pages come first"
        assert sum(granted) == self.persistent_gnts_c
        assert all(entry.gref is not None for entry in self._taken)
        assert not self._taken & set(self._free), "a page is free or taken"
