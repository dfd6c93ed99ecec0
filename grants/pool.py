"""The frontend's pool of pages to bounce requests through, in the order that Linux keeps it (xen-blkfront.c).

    head                                                    tail
    [still mapped by the backend ...][... granted to nobody]

A page that the backend keeps mapped goes back to the head and is taken first the next time, so that the backend finds
it mapped; a page whose access could be ended goes to the tail. The pages in use at once are thus the only ones that are
ever granted: the backend's working set is their largest number, not the pool's size. Where nobody can see what the
backend maps, whatever was granted once is taken to be mapped.

Unlike Linux, those that are taken from the head are used in the order in which they were put back: a request's pages
that were neighbours stay neighbours, which a CPU copies faster.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable
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

    def allocate_pages(self, count: int, /) -> list[Page]:
        """So many zeroed pages, or none: its error."""

    def free_pages(self, pages: Iterable[Page], /) -> None:
        """Take pages back."""


@dataclasses.dataclass(eq=False, slots=True)
class PoolEntry:
    """One page of the pool; `gref` is None while it is granted to nobody."""

    page: Page
    gref: GrantRef | None = None


class GrantPool:
    """`size` zeroed pages to grant to `domid`. Not thread-safe: the ring's lock is its lock.

    Grants are read-write always, for writes to the disk too: a backend that keeps them maps them writable.
    """

    def __init__(self, table: GrantTable, memory: PageSource, domid: Domid, size: int) -> None:
        self._table = table
        self._memory = memory
        self._domid = domid
        self._free = collections.deque(PoolEntry(page) for page in memory.allocate_pages(size))
        self._taken: set[PoolEntry] = set()
        self._sees_mappings = table.sees_mappings
        self.persistent_gnts_c = 0

    def prepare(self, nr_pages: int) -> None:
        """See to it that so many pages can be granted later, whatever becomes of others; GrantError if not."""
        self._table.prepare(self._domid, [entry.page.frame for entry in itertools.islice(self._free, nr_pages)])

    def take(self, nr_pages: int) -> list[PoolEntry]:
        """The pages at the head, granted; WouldBlockError, and none, if pages or references are lacking."""
        if len(self._free) < nr_pages:
            raise WouldBlockError(f"{nr_pages} pool pages are needed, {len(self._free)} are free")
        entries = list(itertools.islice(self._free, nr_pages))
        nr_kept = min(nr_pages, self.persistent_gnts_c)
        entries[:nr_kept] = reversed(entries[:nr_kept])
        self._grant(entries[nr_kept:])
        self.persistent_gnts_c -= nr_kept
        for _ in entries:
            self._taken.add(self._free.popleft())
        return entries

    def _grant(self, entries: list[PoolEntry]) -> None:
        try:
            refs = self._table.grant(self._domid, [entry.page.frame for entry in entries])
        except GrantError as error:
            raise WouldBlockError(f"{len(entries)} grant references are needed: {error}") from error
        for entry, ref in zip(entries, refs, strict=True):
            entry.gref = ref

    def put_back(self, entry: PoolEntry) -> bool:
        """Take a page back after its request; True if the backend still maps it, as far as can be seen."""
        self._taken.remove(entry)
        if self._sees_mappings and self._end_access(entry):
            self._free.append(entry)
            return False
        self._free.appendleft(entry)
        self.persistent_gnts_c += 1
        return self._sees_mappings

    def _end_access(self, entry: PoolEntry) -> bool:
        assert entry.gref is not None
        if not self._table.end_access(entry.gref):
            return False
        entry.gref = None
        return True

    def trim(self) -> int:
        """End the grants of free pages that the backend let go of meanwhile; how many that were. Linux: every 10 s."""
        if not self._sees_mappings:
            return 0
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
        mapped, ended = [], []
        for entry in (*self._free, *self._taken):
            if entry.gref is None or self._end_access(entry):
                ended.append(entry.page)
            else:
                self._table.end_access_later(entry.gref, functools.partial(self._memory.free_pages, [entry.page]))
                mapped.append(entry)
        self._memory.free_pages(ended)
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
