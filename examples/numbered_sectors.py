"""A disk that is made up as it is read: each sector says its own number. 1 TiB, read-only, and nothing is stored.

Run it in a domain of real Xen or beside `xenblk host`, then attach it to a guest, which finds `sector 7` in sector 7:

    xenblk attach --domid 5 --vdev xvdb --disk numbers --mode r --backend-type numbered
"""

import contextlib
from typing import Any

from xenblk.abi import DOM0, SECTOR_SIZE
from xenblk.blkback import Backend
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import default_run_dir
from xenblk.object_disk import ObjectDisk
from xenblk.xen.devices import Devices
from xenblk.xen.platform import XenPlatform


class NumberedSectors:
    size = 1 << 40
    read_only = True

    def pread(self, count: int, offset: int) -> bytes:
        sectors = range(offset // SECTOR_SIZE, (offset + count) // SECTOR_SIZE)
        return b"".join(f"sector {number}\n".encode().ljust(SECTOR_SIZE, b"\0") for number in sectors)

    def flush(self) -> None:
        pass


def open_disk(params: str, read_only: bool, sector_size: int) -> Any:
    return ObjectDisk(NumberedSectors())


platform = XenPlatform() if Devices().is_domain else EmulatedPlatform(default_run_dir(), DOM0)
with contextlib.closing(platform):
    backend = Backend(platform, opener=open_disk, backend_type="numbered")
    print("ready", flush=True)
    backend.run()
