"""The emulated hypervisor's side of grants, in the process that maps: gnttab.h says how."""

from typing import Any

from xenblk._native import ffi, lib
from xenblk.abi import Domid
from xenblk.grants.entries import Entries
from xenblk.grants.mapper import ForeignDomain
from xenblk.grants.mappings import max_mapped_pages


class GnttabDomain(ForeignDomain):
    """A granting domain of the emulated Xen. Its memory stays the caller's, and must outlive every mapping.

    `instance` numbers this life of the domain; `memory_fd` is its memory, frame n at n * 4096; `table` its grant
    table; `active` the hypervisor's table beside it.
    """

    def __init__(
        self, domid: Domid, instance: int, memory_fd: int, nr_frames: int, table: memoryview, active: memoryview
    ) -> None:
        self.instance = instance
        self.memory_fd = memory_fd
        self.table = table
        self.active = active
        self.tables: Any = ffi.new("struct xb_gnttab_grantor *")
        super().__init__(domid, self.tables)
        self._entries = (Entries("xb_grant_entry", table), Entries("xb_active_entry", active))
        self.tables.shared, self.tables.active = (entries.first for entries in self._entries)
        self.tables.nr_frames = nr_frames
        self.tables.instance = instance
        self.tables.memory_fd = memory_fd
        self.tables.base.domid = domid
        self.tables.base.nr_refs = min(entries.nr_entries for entries in self._entries)

    def close(self) -> None:
        """Let go of the tables."""
        for entries in self._entries:
            entries.close()
        self.table.release()
        self.active.release()


class GnttabMapper:
    """Maps for process number `owner` of domain `domid`; `maptrack` records for the host what is mapped.

    `max_pages` is how many may be mapped at a time, NO_SPACE beyond; by default as many as can always be unmapped again
    (xenblk.grants.mappings).
    """

    def __init__(self, owner: int, domid: Domid, maptrack: memoryview, max_pages: int | None = None) -> None:
        self._track = Entries("xb_maptrack_entry", maptrack)
        self.native: Any = ffi.new("struct xb_gnttab_mapper *")
        self.native.base.ops = lib.xb_gnttab_ops
        self.native.base.max_pages = min(self._track.nr_entries, max_mapped_pages() if max_pages is None else max_pages)
        self._stack = ffi.new("uint32_t[]", self.native.base.max_pages)
        self.native.free = self._stack
        self.native.track = self._track.first
        self.native.owner = owner
        self.native.domid = domid

    def close(self) -> None:
        """Let go of the maptrack."""
        self._track.close()
