"""Statistics of a device by Linux's names: what blkback shows in /sys/bus/xen-backend/devices/vbd-N-N/statistics.

    oo_req              times that a request stayed on the ring because no request record was free
    rd_req wr_req       read and write requests, counted when they are taken, whatever becomes of them
    f_req               flush and barrier requests, likewise
    ds_req              discard requests that the disk was asked for
    rd_sect wr_sect     sectors of 512 bytes that the disk was asked for; what a flush carries is written

Each is the sum over the rings of the device, also over those of earlier connections, which Linux forgets. They are read
from the rings' counter files, so a reader neither stops a ring nor keeps one from going.
"""

from pathlib import Path
from typing import Final

from xenblk.abi import Domid
from xenblk.blkback.device_nodes import device_numbers
from xenblk.counters import Counters
from xenblk.toolstack import backend_path, frontend_path
from xenblk.xenstore.client import Xenstore

NAMES: Final = ("oo_req", "rd_req", "wr_req", "f_req", "ds_req", "rd_sect", "wr_sect")


def read_statistics(counters_dir: Path, backend: Domid, domid: Domid, handle: int) -> dict[str, int]:
    """The counts of a device by NAMES; zeros for one that never had a ring. UsageError for files of another version."""
    total = dict.fromkeys(NAMES, 0)
    for path in sorted(counters_dir.glob(f"vbd-{backend}-{domid}-{handle}-*.back")):
        try:
            counters = Counters.open(path)
        except FileNotFoundError:  # its host is gone, or going
            continue
        counts = counters.snapshot()
        counters.close()
        for name in NAMES:
            total[name] += counts[name]
    return total


def read_attributes(store: Xenstore, backend: Domid, domid: Domid, handle: int) -> dict[str, str]:
    """What Linux shows beside them: `physical_device`, the numbers of the block device in hexadecimal, and `mode`.

    A disk that is not a block device has no such numbers: 0:0.
    """
    path = store.read(f"{frontend_path(domid, handle)}/backend", "") or backend_path(backend, domid, handle)
    device = store.read(f"{path}/physical-device", "") or device_numbers(store.read(f"{path}/params", ""))
    return {"physical_device": device or "0:0", "mode": store.read(f"{path}/mode", "")}
