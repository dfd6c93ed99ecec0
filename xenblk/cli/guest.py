"""This process as the kernel of a guest with one disk: boot, connect, and shut down in good order whatever happens."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.engines import ENGINES, POLL_US


@contextlib.contextmanager
def booted(
    run_dir: Path,
    domid: Domid,
    handle: int,
    *,
    feature_persistent: bool = True,
    engine: str = ENGINES[0],
    poll_us: int = POLL_US,
) -> Iterator[tuple[EmulatedPlatform, Blkfront]]:
    """The domain booted and its disk connected. An error in the block is no crash: the domain keeps its disks."""
    platform = EmulatedPlatform(run_dir, domid)
    try:
        frontend = Blkfront(platform, handle, feature_persistent=feature_persistent, engine=engine, poll_us=poll_us)
        try:
            frontend.connect()
            yield platform, frontend
        finally:
            frontend.close()
            platform.halt()
    finally:
        platform.close()
