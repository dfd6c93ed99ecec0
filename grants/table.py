"""The granting side: which of a domain's pages another domain may use."""

import threading
from typing import Final

from xenblk._native import lib
from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError
from xenblk.grants.entries import Entries
from xenblk.grants.status import GrantStatus

NR_RESERVED: Final = 8
"""References below this are Xen's own (console, xenstore) and never handed out (GNTTAB_NR_RESERVED_ENTRIES)."""


class GrantTable:
    """A domain's grant table, `table`: grant_entry_v1 entries in memory that Xen and the domain share.

    References are allocated last in, first out. Owned by the process that runs the domain; calls from any thread.
    """

    def __init__(self, table: memoryview) -> None:
        self._table = Entries("xb_grant_entry", table)
        self._entries = self._table.first
        self.nr_entries = self._table.nr_entries
        self._free = list(range(NR_RESERVED, self.nr_entries))[::-1]
        self._allocated: set[GrantRef] = set()
        self._granted: set[GrantRef] = set()
        self._lock = threading.Lock()

    @property
    def free_count(self) -> int:
        """References that can still be allocated."""
        return len(self._free)

    def allocate(self) -> GrantRef:
        """A reference that grants nothing yet; GrantError when all are in use."""
        with self._lock:
            if not self._free:
                raise GrantError(
                    f"all {self.nr_entries - NR_RESERVED} grant references are in use", GrantStatus.NO_SPACE
                )
            ref = GrantRef(self._free.pop())
            self._allocated.add(ref)
            return ref

    def free(self, ref: GrantRef) -> None:
        """Give a reference back whose access has ended."""
        with self._lock:
            assert ref in self._allocated, f"reference {ref} is freed, but is not allocated"
            assert ref not in self._granted, f"reference {ref} is freed before its access ended"
            self._allocated.remove(ref)
            self._free.append(ref)

    def grant_access(self, ref: GrantRef, domid: Domid, frame: int, readonly: bool = False) -> None:
        """Let `domid` map and copy `frame`, for reading only if `readonly`."""
        assert ref in self._allocated, f"reference {ref} is granted, but is not allocated"
        assert ref not in self._granted, f"reference {ref} is granted already"
        self._granted.add(ref)
        lib.xb_gnttab_grant(self._entries + ref, domid, frame, readonly)

    def grant_reserved(self, ref: GrantRef, domid: Domid, frame: int) -> None:
        """Let `domid` map `frame` by one of Xen's own references; it stays granted as long as the domain lives."""
        assert ref < NR_RESERVED, f"reference {ref} is not one of Xen's own"
        lib.xb_gnttab_grant(self._entries + ref, domid, frame, False)

    def end_access(self, ref: GrantRef) -> bool:
        """End it: True when the other domain can no longer touch the page, False while it still maps it."""
        assert ref in self._allocated, f"access to reference {ref} ends, but it is not allocated"
        if not lib.xb_gnttab_end_access(self._entries + ref):
            return False
        self._granted.discard(ref)
        return True

    def _check(self) -> None:
        assert sorted([*self._free, *self._allocated]) == list(range(NR_RESERVED, self.nr_entries))
        assert self._granted <= self._allocated
        assert all(self._entries[ref].flags == lib.GTF_invalid for ref in self._free)
