"""Statistics by Linux's names: read while rings come and go, and what the command shows."""

import json
import threading
from typing import Any

import pytest

from xenblk.abi import DOM0
from xenblk.blkback.statistics import NAMES, read_statistics
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.cli.commands import cli
from xenblk.toolstack import backend_path

XVDA = 51712
CONNECTIONS = 12


@pytest.mark.parametrize("engine", ["native", "python"])
def test_statistics_are_read_while_rings_come_and_go(world: Any, engine: str) -> None:
    """Linux read them from rings that were freed under it (CVE-2026-100082)."""
    world.backend("--engine", engine)
    platform = world.boot(domid := world.attach())
    seen: list[dict[str, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(read_statistics(world.directory.counters, DOM0, domid, XVDA))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(CONNECTIONS):
        frontend = Blkfront(platform, XVDA)
        frontend.connect()
        disk = VirtualDisk(frontend)
        disk.pwrite(bytes(8192), 0)
        disk.pread(4096, 0)
        disk.flush()
        frontend.close()
    done.set()
    reader.join()
    last = read_statistics(world.directory.counters, DOM0, domid, XVDA)
    each = {"rd_req": 1, "wr_req": 1, "f_req": 1, "rd_sect": 8, "wr_sect": 16, "oo_req": 0, "ds_req": 0}
    assert last == {name: count * CONNECTIONS for name, count in each.items()}
    assert len(seen) > CONNECTIONS
    for before, after in zip(seen, [*seen[1:], last], strict=True):
        assert all(before[name] <= after[name] for name in NAMES)


def test_the_command_shows_every_disk(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    world.backend()
    idle = world.attach("memory:1M", "r")
    world.disk(busy := world.attach()).pread(4096, 0)
    world.store.write(f"{backend_path(DOM0, busy, XVDA)}/physical-device", "fd:1a")
    cli(["statistics", "--run-dir", str(world.run_dir), "--json"], standalone_mode=False)
    disks = {disk["domid"]: disk for disk in json.loads(capsys.readouterr().out)["disks"]}
    zeros = dict.fromkeys(NAMES, 0)
    assert disks[idle] == {"domid": idle, "vdev": "xvda", **zeros, "physical_device": "0:0", "mode": "r"}
    assert (disks[busy]["rd_sect"], disks[busy]["physical_device"], disks[busy]["mode"]) == (8, "fd:1a", "w")
    cli(["statistics", "--run-dir", str(world.run_dir)], standalone_mode=False)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["domid", "vdev", *NAMES, "physical_device", "mode"]
    assert len(rows) == 2
