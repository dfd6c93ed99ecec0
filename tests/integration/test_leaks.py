"""Connections that come and go leave nothing in the process: no descriptor, mapping, thread or memory."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from engines.platform import GUEST, LocalPlatform

import xenblk
from xenblk.abi import DOM0, PAGE_SIZE
from xenblk.blkback.connection import Connection
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.blkif import BlkifOp
from xenblk.disk import FileDisk, MemoryDisk
from xenblk.errors import DiskError, HostError

CYCLES = 1000
CYCLES_WITH_XENSTORE = 60
WARM_UP = 20
RSS_BYTES_MAX = 3 << 20
"""What the allocator may keep for itself: less than 3 KiB a cycle, and a ring alone has 4."""


class Process:
    """What this process has."""

    def __init__(self) -> None:
        gc.collect()
        self.fds = len(os.listdir("/proc/self/fd"))
        self.threads = len(os.listdir("/proc/self/task"))
        self.mappings = len(Path("/proc/self/maps").read_text().splitlines())
        self.rss_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


def require_nothing_left(cycle: Callable[[], None], cycles: int) -> None:
    """The first cycles may fill caches; all that follow leave the process as it was."""
    for _ in range(WARM_UP):
        cycle()
    before = Process()
    for _ in range(cycles):
        cycle()
    after = Process()
    assert after.fds == before.fds
    assert after.threads == before.threads
    assert after.mappings - before.mappings < cycles // 20, "some, of what malloc splits and joins"
    assert after.rss_bytes - before.rss_bytes < RSS_BYTES_MAX


def transfer(ring: Ring, data: DataPath, op: BlkifOp, offset: int, buffer: memoryview) -> None:
    """One operation through an engine of the frontend, to its end."""
    bio = Bio(op, offset, buffer)
    data.engine.submit(bio)
    data.engine.fill()
    if data.engine.push():
        ring.channel.notify()
    while bio not in data.engine.collect():
        if not data.engine.must_look_again():
            ring.channel.wait(1.0)
    assert bio.error is None


@pytest.mark.parametrize("parameters", [{}, {"grant_copy": True}, {"max_persistent_grants": 2}], ids=str)
@pytest.mark.parametrize("engine", ["native", "python"])
def test_connections(engine: str, parameters: dict[str, int], tmp_path: Path) -> None:
    """Without xenstore, a frontend and a backend by their classes; every second time with a file."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 16))
    disks = [MemoryDisk(1 << 16), FileDisk(image)]
    platform = LocalPlatform()
    page = memoryview(bytearray(b"x" * 8192))

    def cycle() -> None:
        ring = Ring(platform, DOM0)
        keys = FrontendKeys([QueueKeys(ring.refs, ring.channel.port)], ring.abi, persistent=True)
        connection = Connection(platform, GUEST, "vbd", keys, disks[0], BackendParameters(engine=engine, **parameters))
        data = DataPath(platform, ring, DOM0, 51712, True, engine=engine)
        disks.reverse()
        transfer(ring, data, BlkifOp.WRITE, 4096, page)
        transfer(ring, data, BlkifOp.READ, 4096, page)
        connection.close()
        data.close()
        ring.close()

    require_nothing_left(cycle, CYCLES // 10 if parameters else CYCLES)
    assert platform.mapper.mapped_pages == 0
    platform.close()


@pytest.mark.parametrize("engine", ["native", "python"])
def test_disks_of_a_host(engine: str) -> None:
    """Everything: a domain, its nodes, both drivers, threads, data."""
    with xenblk.Host(BackendParameters(engine=engine)) as host:

        def cycle() -> None:
            with host.attach("memory:64K", engine=engine) as disk:
                disk.pwrite(b"a" * 4096, 0)
                assert disk.pread(4096, 0) == b"a" * 4096

        require_nothing_left(cycle, CYCLES_WITH_XENSTORE)


def test_disks_that_cannot_be_attached() -> None:
    with xenblk.Host() as host:

        def cycle() -> None:
            with pytest.raises((DiskError, HostError)):
                host.attach("/nowhere/disk.img")
            with pytest.raises((DiskError, HostError)):
                host.attach(object())

        require_nothing_left(cycle, WARM_UP)
        assert host._control.call("status")[0]["domains"] == []
