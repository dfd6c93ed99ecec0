"""The statuses of grant operations, as Xen numbers them (grant_table.h), and the sizes of the tables' entries."""

import enum
from typing import Final

from xenblk._native import ffi, lib

ACTIVE_ENTRY_BYTES: Final = ffi.sizeof("struct xb_active_entry")
MAPTRACK_ENTRY_BYTES: Final = ffi.sizeof("struct xb_maptrack_entry")


class GrantStatus(enum.IntEnum):
    """GNTST_*: 0 is success, every failure is negative."""

    OKAY = lib.GNTST_okay
    GENERAL_ERROR = lib.GNTST_general_error
    BAD_DOMAIN = lib.GNTST_bad_domain
    BAD_GNTREF = lib.GNTST_bad_gntref
    BAD_HANDLE = lib.GNTST_bad_handle
    BAD_VIRT_ADDR = lib.GNTST_bad_virt_addr
    BAD_PAGE = lib.GNTST_bad_page
    BAD_COPY_ARG = lib.GNTST_bad_copy_arg
    NO_SPACE = lib.GNTST_no_space

    @property
    def sentence(self) -> str:
        """What a person should read."""
        return _SENTENCES[self]


_SENTENCES: Final = {
    GrantStatus.OKAY: "done",
    GrantStatus.GENERAL_ERROR: "it is not granted to this domain, or not for writing",
    GrantStatus.BAD_DOMAIN: "there is no such domain",
    GrantStatus.BAD_GNTREF: "it lies outside the grant table",
    GrantStatus.BAD_HANDLE: "no mapping has that handle",
    GrantStatus.BAD_VIRT_ADDR: "the address is not that of a page",
    GrantStatus.BAD_PAGE: "the granted frame lies outside the domain's memory",
    GrantStatus.BAD_COPY_ARG: "a copy may not cross the end of a page",
    GrantStatus.NO_SPACE: "there is no room for another mapping",
}
