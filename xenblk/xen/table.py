"""Granting on real Xen."""

from collections.abc import Sequence

from xenblk._native import ffi
from xenblk.abi import Domid
from xenblk.grants import GrantTable
from xenblk.xen.memory import XenMemory


class XenGrantTable(GrantTable):
    """Grants pages of `memory`, under references that the kernel chooses.

    Who maps a page cannot be seen, so access never ends for certain before its page is freed, and `end_access` only
    says that we lend it no more: the domain that was lent a page may go on using it until then. Granting it again gives
    the reference that it has.
    """

    def __init__(self, memory: XenMemory) -> None:
        super().__init__(ffi.addressof(memory.native, "table"), memory)
        self._memory = memory

    def _no_room(self, count: int) -> str:
        return self._memory.why_not(count)

    def prepare(self, domid: Domid, frames: Sequence[int]) -> None:
        """Grant them now: a page keeps its reference. GrantError if there is no room."""
        self.grant(domid, frames)
