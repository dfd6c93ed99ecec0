"""A grant table in memory that Xen and the domain share, of grant_entry_v1 entries."""

from typing import Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid, GrantRef
from xenblk.grants.entries import Entries
from xenblk.grants.table import GrantTable

NR_RESERVED: Final = lib.XB_GRANT_TABLE_RESERVED
"""References below this are Xen's own (console, xenstore) and never handed out (GNTTAB_NR_RESERVED_ENTRIES)."""


class GrantTableV1(GrantTable):
    """The entries in `table` (table_v1.h). References are taken last in, first out."""

    def __init__(self, table: memoryview) -> None:
        entries = Entries("xb_grant_entry", table)
        self.nr_entries = entries.nr_entries
        self._entries = entries.first
        self._free = ffi.new("uint32_t[]", self.nr_entries)
        self._state = ffi.new("uint8_t[]", self.nr_entries)
        self._v1 = ffi.new("struct xb_grant_table_v1 *")
        lib.xb_grant_table_v1_init(self._v1, self._entries, self._free, self._state, self.nr_entries)
        super().__init__(self._v1, entries)

    @property
    def free_count(self) -> int:
        """References that are free."""
        return lib.xb_grant_table_v1_nr_free(self._v1)

    def _no_room(self, count: int) -> str:
        nr_refs = self.nr_entries - NR_RESERVED
        return f"{self.free_count} of {nr_refs} grant references are free, and {count} were asked for"

    def grant_reserved(self, ref: GrantRef, domid: Domid, frame: int) -> None:
        """Let `domid` map `frame` by one of Xen's own references; it stays granted as long as the domain lives."""
        assert ref < NR_RESERVED, f"reference {ref} is not one of Xen's own"
        lib.xb_gnttab_grant(self._entries + ref, domid, frame, False)

    def end_access(self, ref: GrantRef) -> bool:
        """End it: True when the other domain can no longer touch the page, False while it still maps it."""
        assert self._state[ref] != lib.XB_GRANT_FREE, f"access to reference {ref} ends, but it is not granted"
        return super().end_access(ref)

    def _check(self) -> None:
        free = sorted(self._free[0 : self.free_count])
        assert free == [ref for ref in range(NR_RESERVED, self.nr_entries) if self._state[ref] == lib.XB_GRANT_FREE]
        assert all(self._entries[ref].flags == lib.GTF_invalid for ref in free)
