"""The granting side: which of a domain's pages another domain may use."""

import threading
from collections.abc import Callable
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError
from xenblk.grants.entries import Entries
from xenblk.grants.status import GrantStatus

NR_RESERVED: Final = lib.XB_GRANT_TABLE_RESERVED
"""References below this are Xen's own (console, xenstore) and never handed out (GNTTAB_NR_RESERVED_ENTRIES)."""


class GrantTable:
    """A domain's grant table, `table`: grant_entry_v1 entries in memory that Xen and the domain share.

    References are allocated last in, first out. Owned by the process that runs the domain; calls from any thread.
    `native` is the same table for a native engine: a `struct xb_grant_table` (table.h).
    """

    def __init__(self, table: memoryview) -> None:
        self._table = Entries("xb_grant_entry", table)
        self._entries = self._table.first
        self.nr_entries = self._table.nr_entries
        self._free = ffi.new("uint32_t[]", self.nr_entries)
        self._state = ffi.new("uint8_t[]", self.nr_entries)
        self.native: Any = ffi.new("struct xb_grant_table *")
        lib.xb_grant_table_init(self.native, self._entries, self._free, self._state, self.nr_entries)
        self._deferred: list[tuple[GrantRef, Callable[[], None]]] = []
        self._deferred_lock = threading.Lock()

    @property
    def free_count(self) -> int:
        """References that can still be allocated."""
        return lib.xb_grant_table_nr_free(self.native)

    def allocate(self) -> GrantRef:
        """A reference that grants nothing yet; GrantError when all are in use."""
        ref = ffi.new("uint32_t *")
        if not lib.xb_grant_table_allocate(self.native, ref, 1):
            raise GrantError(f"all {self.nr_entries - NR_RESERVED} grant references are in use", GrantStatus.NO_SPACE)
        return GrantRef(ref[0])

    def free(self, ref: GrantRef) -> None:
        """Give a reference back whose access has ended."""
        assert self._state[ref] != lib.XB_GRANT_FREE, f"reference {ref} is freed, but is not allocated"
        assert self._state[ref] != lib.XB_GRANT_GRANTED, f"reference {ref} is freed before its access ended"
        lib.xb_grant_table_free(self.native, ffi.new("uint32_t *", ref), 1)

    def grant_access(self, ref: GrantRef, domid: Domid, frame: int, readonly: bool = False) -> None:
        """Let `domid` map and copy `frame`, for reading only if `readonly`."""
        assert self._state[ref] != lib.XB_GRANT_FREE, f"reference {ref} is granted, but is not allocated"
        assert self._state[ref] != lib.XB_GRANT_GRANTED, f"reference {ref} is granted already"
        lib.xb_grant_table_grant(self.native, ref, domid, frame, readonly)

    def grant_reserved(self, ref: GrantRef, domid: Domid, frame: int) -> None:
        """Let `domid` map `frame` by one of Xen's own references; it stays granted as long as the domain lives."""
        assert ref < NR_RESERVED, f"reference {ref} is not one of Xen's own"
        lib.xb_gnttab_grant(self._entries + ref, domid, frame, False)

    def end_access(self, ref: GrantRef) -> bool:
        """End it: True when the other domain can no longer touch the page, False while it still maps it."""
        assert self._state[ref] != lib.XB_GRANT_FREE, f"access to reference {ref} ends, but it is not allocated"
        return bool(lib.xb_grant_table_end_access(self.native, ref))

    def flags(self, ref: GrantRef) -> int:
        """The entry's GTF_* bits as they stand: reading (8) and writing (16) say the other domain has it mapped."""
        return int(self._entries[ref].flags)

    def end_access_later(self, ref: GrantRef, ended: Callable[[], None] = lambda: None) -> None:
        """End access, and free the reference, as soon as the other domain lets go of the page.

        `ended` is called then, by `end_deferred`; until then the page must not be used for anything else
        (gnttab_end_foreign_access).
        """
        with self._deferred_lock:
            self._deferred.append((ref, ended))

    def end_deferred(self) -> int:
        """Try again to end what `end_access_later` was asked for; how many pages are mapped still."""
        with self._deferred_lock:
            deferred, self._deferred = self._deferred, []
            for ref, ended in deferred:
                if self.end_access(ref):
                    self.free(ref)
                    ended()
                else:
                    self._deferred.append((ref, ended))
            return len(self._deferred)

    def grants(self, frame: int, nr_frames: int = 1) -> bool:
        """Whether any of these frames is granted to anyone: it must not be used for anything else then."""
        return bool(lib.xb_grant_table_grants(self.native, frame, nr_frames))

    def _check(self) -> None:
        free = sorted(self._free[0 : self.free_count])
        assert free == [ref for ref in range(NR_RESERVED, self.nr_entries) if self._state[ref] == lib.XB_GRANT_FREE]
        assert all(self._entries[ref].flags == lib.GTF_invalid for ref in free)
