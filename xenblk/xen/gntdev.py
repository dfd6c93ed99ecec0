"""Grants of other domains, mapped by real Xen through /dev/xen/gntdev: gntdev.h says how."""

import os
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid
from xenblk.errors import HostError
from xenblk.grants import ForeignDomain, max_mapped_pages
from xenblk.xen.devices import Devices

CALL_MAX: Final = 65536
"""References in a call, by default of the module's parameter `limit`."""

NR_REFS: Final = 32768
"""References that a domain has by default (`gnttab_max_frames` 64, of 512 entries); of more, the rest is not kept."""


class GntdevMapper:
    """Maps for this process. `max_pages` is how many may be mapped at a time, by default as many as can be unmapped."""

    def __init__(self, devices: Devices, max_pages: int | None = None) -> None:
        self._fd = devices.open("gntdev")
        call_max = devices.parameter("xen-gntdev", "limit", CALL_MAX)
        self.native: Any = lib.xb_gntdev_create(self._fd, max_pages or max_mapped_pages(), max(1, call_max))
        if self.native == ffi.NULL:
            os.close(self._fd)
            raise HostError("ENOMEM", "there is no memory for the table of mapped pages")

    def close(self) -> None:
        """Close the device."""
        lib.xb_gntdev_destroy(self.native)
        os.close(self._fd)


def xen_domain(domid: Domid) -> ForeignDomain:
    """Another domain, to map grants of. That it is there shows only in what can be mapped."""
    grantor = ffi.new("struct xb_grantor *")
    grantor.domid = domid
    grantor.nr_refs = NR_REFS
    return ForeignDomain(domid, grantor)
