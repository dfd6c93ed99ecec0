"""Both layouts of requests, from the frontend's option to the disk: every operation, with each engine at either end."""

import random
from pathlib import Path
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import ABIS
from xenblk.engines import ENGINES

SEGMENTS = 20
INDIRECT_BYTES = SEGMENTS * PAGE_SIZE


@pytest.mark.parametrize("protocol", ABIS)
@pytest.mark.parametrize("back", ENGINES)
@pytest.mark.parametrize("front", ENGINES)
def test_every_operation(world: Any, image: Path, front: str, back: str, protocol: str) -> None:
    """A request of 20 pages is one, so it was indirect; what is discarded is a hole with whole neighbours."""
    world.backend("--engine", back)
    domid = world.attach(str(image))
    disk = world.disk(domid, engine=front, protocol=protocol)
    assert world.store.read(f"{world.vbd(domid).frontend_path}/protocol") == protocol
    dice, model = random.Random(protocol), bytearray(image.read_bytes())
    for count, offset in ((512, 3 * 512), (11 * PAGE_SIZE, 1 << 20), (INDIRECT_BYTES, (2 << 20) + 512)):
        data = dice.randbytes(count)
        disk.pwrite(data, offset)
        model[offset : offset + count] = data
        assert disk.pread(count, offset) == data
    disk.flush()
    assert image.read_bytes() == model
    disk.discard((1 << 20) + PAGE_SIZE, 2 * PAGE_SIZE)
    model[(1 << 20) + PAGE_SIZE : (1 << 20) + 3 * PAGE_SIZE] = bytes(2 * PAGE_SIZE)
    assert disk.pread(11 * PAGE_SIZE, 1 << 20) == model[1 << 20 : (1 << 20) + 11 * PAGE_SIZE]
    counts = world.counts(domid)
    assert [counts[name] for name in ("wr_req", "rd_req", "f_req", "ds_req")] == [3, 4, 1, 1]
    disk.close()
    assert image.read_bytes() == model
