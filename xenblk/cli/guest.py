"""This process as the kernel of a guest with one disk: boot, connect, and shut down in good order whatever happens."""

import contextlib
from collections.abc import Iterator
from typing import Unpack

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront
from xenblk.blkfront.options import OptionValues
from xenblk.cli.platforms import Xen
from xenblk.platform import Platform


@contextlib.contextmanager
def booted(
    xen: Xen,
    domid: Domid | None,
    handle: int,
    **options: Unpack[OptionValues],
) -> Iterator[tuple[Platform, Blkfront]]:
    """The domain booted and its disk connected. An error in the block is no crash: the domain keeps its disks."""
    platform = xen.enter(domid, Domid(1))
    try:
        frontend = Blkfront(platform, handle, **options)
        try:
            frontend.connect()
            yield platform, frontend
        finally:
            frontend.close()
            platform.halt()
    finally:
        platform.close()
