"""A disk with a write cache that its backend's death empties, as a power cut does a drive's: what was flushed is there.

An image outlives its backend, written or flushed: with one alone, a flush that did nothing would not be missed.
"""

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkfront import Bio, Blkfront
from xenblk.blkif import BlkifOp
from xenblk.processes import Program

NR_BLOCKS = 256
IN_FLIGHT = 32
KILLS = 6

BACKEND = """
import os, sys
from pathlib import Path
from xenblk.abi import DOM0, PAGE_SIZE
from xenblk.blkback import Backend, BackendParameters
from xenblk.disk import FileDisk
from xenblk.emulated.platform import EmulatedPlatform

class CachedDisk(FileDisk):
    def __init__(self, path):
        super().__init__(path)
        self.cache, self.dirty = bytearray(Path(path).read_bytes()), set()

    def _preadv(self, buffers, offset):
        for buffer in buffers:
            buffer[:] = self.cache[offset : offset + buffer.nbytes]
            offset += buffer.nbytes

    def _pwritev(self, buffers, offset):
        for buffer in buffers:
            self.cache[offset : offset + buffer.nbytes] = buffer
            self.dirty.add(offset // PAGE_SIZE * PAGE_SIZE)
            offset += buffer.nbytes

    def flush(self):
        for offset in self.dirty:
            os.pwrite(self.fileno(), self.cache[offset : offset + PAGE_SIZE], offset)
        self.dirty.clear()
        super().flush()

platform = EmulatedPlatform(Path(sys.argv[1]), DOM0)
backend = Backend(platform, BackendParameters(engine="python"), lambda path, *_options: CachedDisk(path))
print("ready", flush=True)
backend.run()
"""


def content(block: int, version: int) -> bytes:
    return (b"%08d %08d " % (block, version) * PAGE_SIZE)[:PAGE_SIZE] if version else bytes(PAGE_SIZE)


class Guest:
    """Writes versions of blocks; a block is in one bio at a time. `flushed` must be there whatever happens."""

    def __init__(self, frontend: Blkfront, rng: random.Random) -> None:
        self.frontend = frontend
        self.rng = rng
        self.written = [0] * NR_BLOCKS
        self.done = [0] * NR_BLOCKS
        self.flushed = [0] * NR_BLOCKS
        self.in_flight: dict[Bio, tuple[int, int]] = {}

    def write(self) -> None:
        """Have IN_FLIGHT writes in flight."""
        busy = {block for block, _ in self.in_flight.values()}
        free = [block for block in range(NR_BLOCKS) if block not in busy]
        for block in self.rng.sample(free, IN_FLIGHT - len(self.in_flight)):
            self.written[block] += 1
            data = memoryview(content(block, self.written[block]))
            bio = self.frontend.submit(BlkifOp.WRITE, block * PAGE_SIZE, data)
            self.in_flight[bio] = (block, self.written[block])

    def collect(self) -> None:
        """Take what is done."""
        for bio in self.frontend.poll(1.0):
            assert bio.error is None, bio.error
            block, version = self.in_flight.pop(bio)
            self.done[block] = version

    def flush(self) -> None:
        """With nothing else in flight."""
        while self.in_flight:
            self.collect()
        bio = self.frontend.submit(BlkifOp.FLUSH_DISKCACHE)
        while bio not in self.frontend.poll():
            pass
        assert bio.error is None, bio.error
        self.flushed = list(self.done)

    def read(self) -> list[int]:
        """The version of each block, which must be one of those between `flushed` and `written`, as it is now."""
        found = []
        for block in range(NR_BLOCKS):
            data = memoryview(bytearray(PAGE_SIZE))
            bio = self.frontend.submit(BlkifOp.READ, block * PAGE_SIZE, data)
            while bio not in self.frontend.poll():
                pass
            assert bio.error is None, bio.error
            versions = range(self.flushed[block], self.written[block] + 1)
            fitting = [version for version in versions if data == content(block, version)]
            assert fitting, f"block {block} begins {bytes(data[:18])!r}, and version {self.flushed[block]} was flushed"
            found += fitting
        self.written, self.done = list(found), list(found)
        return found


@pytest.mark.parametrize("engine", ["native", "python"])
def test_what_was_flushed_outlives_the_cache_and_nothing_else_does(world: Any, image: Path, engine: str) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = random.Random(seed)
    backend = start(world)
    guest = Guest(world.frontend(world.attach(str(image)), engine=engine, recover=True), rng)
    for _ in range(KILLS):
        for _ in range(rng.randrange(1, 4)):
            guest.write()
            guest.collect()
        guest.flush()
        guest.write()
        while guest.done == guest.flushed:
            guest.collect()
        lost = [block for block in range(NR_BLOCKS) if guest.done[block] != guest.flushed[block]]
        backend.kill()
        backend = start(world)
        while guest.in_flight:
            guest.collect()
        found = guest.read()
        assert [found[block] for block in lost] == [guest.flushed[block] for block in lost], "there is a cache"


def start(world: Any) -> Program:
    """The next backend."""
    backend: Program = world.host.run([sys.executable, "-c", BACKEND, str(world.run_dir)])
    backend.readline(20.0)
    return backend
