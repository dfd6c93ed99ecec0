"""The granting side: which of a domain's pages another domain may use."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from xenblk._native import ffi, lib
from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError, UsageError
from xenblk.grants.status import GrantStatus


class GrantTable:
    """What a domain grants, behind `native`, a `struct xb_grant_table` (table.h) of one kind or another.

    Owned by the process that runs the domain; calls from any thread. `lent` is kept as long as the table.
    """

    def __init__(self, native: Any, lent: Any) -> None:
        self.native: Any = ffi.cast("struct xb_grant_table *", native)
        self._lent = lent
        self._deferred: list[tuple[GrantRef, Callable[[], None]]] = []
        self._deferred_lock = threading.Lock()

    def grant(self, domid: Domid, frames: Sequence[int], readonly: bool = False) -> list[GrantRef]:
        """Let `domid` map and copy these frames, for reading only if `readonly`: a reference for each, in order.

        GrantError, and nothing is granted, if there is no room for so many.
        """
        refs = ffi.new("uint32_t[]", list(frames))
        if not lib.xb_grant_table_grant(self.native, domid, refs, len(refs), readonly, refs):
            raise GrantError(self._no_room(len(refs)), GrantStatus.NO_SPACE)
        return [GrantRef(ref) for ref in refs]

    def _no_room(self, count: int) -> str:
        return f"there is no room for {count} grants more"

    def prepare(self, domid: Domid, frames: Sequence[int]) -> None:
        """See to it that granting these frames to `domid` will not fail, if that takes more than a reference.

        Nobody uses them yet. GrantError if there is no room.
        """

    def end_access(self, ref: GrantRef) -> bool:
        """End it: True when the other domain can no longer touch the page, and the reference is free.

        False while it still maps it. Where mappings cannot be seen this is always True: see `sees_mappings`.
        """
        return bool(lib.xb_grant_table_end(self.native, ref))

    @property
    def sees_mappings(self) -> bool:
        """Whether it can be seen that another domain maps a page."""
        return bool(lib.xb_grant_table_sees_mappings(self.native))

    def flags(self, ref: GrantRef) -> int:
        """The entry's GTF_* bits as they stand: reading (8) and writing (16) say the other domain has it mapped.

        UsageError where mappings cannot be seen.
        """
        if not self.sees_mappings:
            raise UsageError("this platform does not show who maps a page")
        assert ref < self.native.nr_entries, f"reference {ref} is not one of {self.native.nr_entries}"
        return int(self.native.shared[ref].flags)

    def end_access_later(self, ref: GrantRef, ended: Callable[[], None] = lambda: None) -> None:
        """End access as soon as the other domain lets go of the page.

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
                    ended()
                else:
                    self._deferred.append((ref, ended))
            return len(self._deferred)

    def grants(self, frame: int, nr_frames: int = 1) -> bool:
        """Whether any of these frames is granted to anyone: it must not be used for anything else then."""
        return bool(lib.xb_grant_table_grants(self.native, frame, nr_frames))
