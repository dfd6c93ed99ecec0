"""Disks with sectors of 4096 bytes, from the toolstack's word to the image, and what is no whole number of them."""

import asyncio
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk import toolstack
from xenblk.abi import Domid, GrantRef
from xenblk.blkfront import AsyncDisk, Blkfront, VirtualDisk
from xenblk.blkif import (
    BlkifOp,
    BlkifRequest,
    BlkifSegment,
    BlkifStatus,
    DiscardRequest,
    IndirectRequest,
    pack_segments,
)
from xenblk.errors import UsageError
from xenblk.toolstack import DiskOptions
from xenblk.xenbus import XenbusState as S

XVDA = 51712
SECTOR = 4096
SIZE = 2 << 20
READ, WRITE = BlkifOp.READ, BlkifOp.WRITE
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])


@pytest.fixture
def attach(world: Any) -> Callable[..., Domid]:
    """Gives a new domain a disk of such sectors."""

    def make(params: str) -> Domid:
        domid = Domid(world.control.call("create", domid=None)[0]["domid"])
        toolstack.attach(world.store, domid, XVDA, params, options=DiskOptions(sector_size=SECTOR))
        return domid

    return make


@pytest.fixture
def disk_image(tmp_path: Path) -> Path:
    """Of random bytes."""
    path = tmp_path / "large.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@ENGINES
@pytest.mark.parametrize(
    "options",
    [{"engine": "native"}, {"engine": "python"}, {"engine": "native", "feature_persistent": False, "nr_queues": 2}],
    ids=["native", "python", "in place"],
)
def test_data_goes_where_it_belongs(
    world: Any, attach: Any, disk_image: Path, engine: str, options: dict[str, Any]
) -> None:
    world.backend("--engine", engine, "--max-queues", "2")
    disk = world.disk(attach(str(disk_image)), **options)
    assert (disk.size, disk.frontend.sector_size) == (SIZE, SECTOR)
    assert disk.frontend.persistent is options.get("feature_persistent", True)
    dice, model = random.Random(SECTOR), bytearray(disk_image.read_bytes())
    lent = disk.frontend.allocate(65 * SECTOR)
    for nr_sectors in (1, 11, 12, 32, 33, 64):
        offset = dice.randrange(SIZE // SECTOR - nr_sectors + 1) * SECTOR
        # Memory that may be lent in place begins within a page as well.
        for buffer in (memoryview(bytearray(nr_sectors * SECTOR)), lent[512 : 512 + nr_sectors * SECTOR]):
            buffer[:] = dice.randbytes(len(buffer))
            assert disk.pwrite(buffer, offset) == len(buffer)
            model[offset : offset + len(buffer)] = buffer
            buffer[:] = bytes(len(buffer))
            assert disk.preadinto(buffer, offset) == len(buffer)
            assert buffer == model[offset : offset + len(buffer)]
    disk.flush()
    assert disk_image.read_bytes() == model
    assert disk.pread(2 * SECTOR, SIZE - SECTOR) == model[SIZE - SECTOR : SIZE]
    del buffer
    disk.frontend.free(lent)


@pytest.mark.parametrize("engine", ["native", "python"])
def test_our_frontend_asks_for_whole_sectors_only(world: Any, attach: Any, engine: str) -> None:
    world.backend()
    domid = attach("memory:64K")
    frontend: Blkfront = world.frontend(domid, engine=engine)
    disk = VirtualDisk(frontend)
    for count, offset in ((512, 0), (SECTOR, 512), (SECTOR + 512, 0), (SECTOR // 2, SECTOR)):
        refused = [
            lambda c=count, o=offset: disk.pread(c, o),
            lambda c=count, o=offset: disk.preadinto(bytearray(c), o),
            lambda c=count, o=offset: disk.pwrite(bytes(c), o),
            lambda c=count, o=offset: disk.discard(o, c),
        ]
        for call in refused:
            with pytest.raises(OSError, match="multiples of 4096 bytes") as caught:
                call()
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(UsageError, match="multiples of 4096 bytes"):
            frontend.submit(WRITE, offset, memoryview(bytearray(count)))
    counts = world.counts(domid)
    assert (counts["rd_req"], counts["wr_req"], counts["ds_req"]) == (0, 0, 0)
    disk.pwrite(b"w" * SECTOR, SECTOR)

    async def read() -> bytes:
        async with AsyncDisk(frontend) as awaited:
            with pytest.raises(OSError, match="multiples of 4096 bytes"):
                await awaited.pread(512, 0)
            return await awaited.pread(SECTOR, SECTOR)

    assert asyncio.run(read()) == b"w" * SECTOR


@ENGINES
def test_our_backend_serves_whole_sectors_only(
    world: Any, attach: Any, raw_frontend: Any, disk_image: Path, engine: str
) -> None:
    world.backend("--engine", engine)
    domid = attach(str(disk_image))
    before = disk_image.read_bytes()
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    ref, _page = frontend.page()
    table, descriptors = frontend.page()
    whole = BlkifSegment(ref, 0, 7)

    def status(request: Any) -> int:
        return int(frontend.ask(request)[0].status)

    def direct(op: BlkifOp, sector: int, *segments: BlkifSegment) -> int:
        return status(BlkifRequest(op, 0, 1, sector, len(segments), segments))

    def indirect(op: BlkifOp, sector: int, *segments: BlkifSegment) -> int:
        data = pack_segments(segments)
        descriptors.view[: len(data)] = data
        return status(IndirectRequest(op, 0, 1, sector, len(segments), (table, *[GrantRef(0)] * 7)))

    for ask in (direct, indirect):
        for op in (READ, WRITE):
            assert ask(op, 1, whole) == BlkifStatus.ERROR
            assert ask(op, 12, whole, whole) == BlkifStatus.ERROR
            for part in (BlkifSegment(ref, 0, 0), BlkifSegment(ref, 4, 7), BlkifSegment(ref, 0, 6)):
                assert ask(op, 8, whole, part) == BlkifStatus.ERROR
            assert ask(op, SIZE // 512, whole) == BlkifStatus.ERROR
        assert ask(READ, 8, whole, whole) == BlkifStatus.OKAY
    for sector, count in ((1, 8), (8, 7), (0, 4)):
        assert status(DiscardRequest(0, 1, sector, count)) in (BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP)
    assert disk_image.read_bytes() == before
    assert direct(WRITE, 8, whole) == BlkifStatus.OKAY
