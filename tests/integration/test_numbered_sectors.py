"""The example of a disk that is made up as it is read, served to a guest."""

import sys
from pathlib import Path

from xenblk.abi import SECTOR_SIZE
from xenblk.testing import XenHost
from xenblk.toolstack import DiskOptions

EXAMPLE = Path(__file__).parents[2] / "examples/numbered_sectors.py"


def test_a_guest_finds_each_sectors_number_in_it(xenblk_host: XenHost) -> None:
    host = xenblk_host
    host.run([sys.executable, EXAMPLE])
    vbd = host.attach("numbers", "r", options=DiskOptions(backend_type="numbered"))
    disk = host.disk(vbd)
    assert disk.size == 1 << 40
    assert disk.read_only
    for number in (0, 7, (disk.size // SECTOR_SIZE) - 1):
        text = f"sector {number}\n".encode()
        assert disk.pread(SECTOR_SIZE, number * SECTOR_SIZE) == text.ljust(SECTOR_SIZE, b"\0")
