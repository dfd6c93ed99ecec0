"""This process as the kernel of a guest with one disk: boot, connect, and shut down in good order whatever happens."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront
from xenblk.blkfront.options import OptionValues
from xenblk.emulated.platform import EmulatedPlatform


@contextlib.contextmanager
def booted(
    run_dir: Path,
    domid: Domid,
    handle: int,
    **options: Unpack[OptionValues],
) -> Iterator[tuple[EmulatedPlatform, Blkfront]]:
    """The domain booted and its disk connected. An error in the block is no crash: the domain keeps its disks."""
    platform = EmulatedPlatform(run_dir, domid)
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
