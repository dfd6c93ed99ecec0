"""VirtualDisk and AsyncDisk on an engine: what discards and durable writes become on the ring."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.blkfront import AsyncDisk, VirtualDisk
from xenblk.blkfront.bio import Bio, checked_bio
from xenblk.blkfront.features import Features
from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError

SIZE = 1 << 16


class Served:
    """A frontend whose backend serves with every poll, and notes the operations."""

    size, sector_size, read_only = SIZE, 512, False

    def __init__(self, world: Any) -> None:
        self.world, self.disk, self.ops = world, bytearray(SIZE), []
        self._fd = os.eventfd(0)
        self._closed = False

    def submit(self, op: BlkifOp, offset: int, buffer: Any, *, nr_bytes: int = 0, secure: bool = False) -> Bio:
        bio = checked_bio(op, offset, buffer, nr_bytes, secure, SIZE)
        self.world.engine.submit(bio)
        return bio

    def poll(self, _timeout_s: float | None = None) -> list[Bio]:
        if self._closed:
            return []
        self.world.go()
        for request in self.world.take():
            self.ops.append(BlkifOp(request.operation).name)
            self.world.move(request, self.disk)
            self.world.answer(request)
        return list(self.world.engine.collect())

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self._closed = True
        os.close(self._fd)
        self.world.close()


@pytest.fixture(params=["VirtualDisk", "AsyncDisk"])
def run(request: pytest.FixtureRequest) -> Any:
    """Does one thing to either kind of disk: run(frontend, method, arguments...)."""

    def run_sync(frontend: Any, name: str, *args: Any, **options: Any) -> Any:
        with VirtualDisk(frontend) as disk:
            return getattr(disk, name)(*args, **options)

    async def run_async(frontend: Any, name: str, *args: Any, **options: Any) -> Any:
        async with AsyncDisk(frontend) as disk:
            return await getattr(disk, name)(*args, **options)

    if request.param == "VirtualDisk":
        return run_sync
    return lambda *args, **options: asyncio.run(run_async(*args, **options))


def test_discard(make: Callable[..., Any], run: Any) -> None:
    frontend = Served(make(features=Features(discard=True, discard_secure=True)))
    frontend.disk[:] = b"x" * SIZE
    run(frontend, "discard", 512, 1024, secure=True)
    assert frontend.ops == ["DISCARD"]
    assert frontend.disk == b"x" * 512 + bytes(1024) + b"x" * (SIZE - 1536)


@pytest.mark.parametrize(
    ("args", "number"), [((0, 100), errno.EINVAL), ((SIZE, 512), errno.ENOSPC), ((0, 512), errno.EOPNOTSUPP)]
)
def test_discards_that_are_refused(make: Callable[..., Any], run: Any, args: tuple[int, int], number: int) -> None:
    frontend = Served(make())
    with pytest.raises(OSError, match=r".") as raised:
        run(frontend, "discard", *args)
    assert raised.value.errno == number
    assert frontend.ops == []


def test_nothing_to_discard_or_to_write_durably(make: Callable[..., Any], run: Any) -> None:
    frontend = Served(make(features=Features(discard=True)))
    run(frontend, "discard", 0, 0)
    assert frontend.ops == []


@pytest.mark.parametrize(
    ("features", "ops"),
    [
        (Features(), ["WRITE", "FLUSH_DISKCACHE"]),
        (Features(flush_cache=False, barrier=True), ["WRITE", "WRITE_BARRIER"]),
        (Features(flush_cache=False), ["WRITE"]),
    ],
    ids=repr,
)
def test_a_durable_write_is_flushed(make: Callable[..., Any], run: Any, features: Features, ops: list[str]) -> None:
    """Not a barrier with data: a backend flushes before it writes that, and the data itself is not durable."""
    frontend = Served(make(features=features))
    assert run(frontend, "pwrite", b"x" * 512, 0, fua=True) == 512
    assert frontend.ops == ops
    assert frontend.disk[:512] == b"x" * 512


@pytest.mark.parametrize(
    ("op", "buffer", "nr_bytes", "sentence"),
    [
        (BlkifOp.DISCARD, None, 0, "a discard, and nothing else, has a length and no buffer: DISCARD of 0 bytes"),
        (BlkifOp.DISCARD, bytes(512), 512, "a discard, and nothing else, has a length and no buffer"),
        (BlkifOp.WRITE, bytes(512), 512, "a discard, and nothing else, has a length and no buffer"),
        (BlkifOp.FLUSH_DISKCACHE, None, 512, "a discard, and nothing else, has a length and no buffer"),
        (BlkifOp.WRITE_BARRIER, None, 0, "a read or write carries data and a flush none: WRITE_BARRIER with 0 bytes"),
        (BlkifOp.FLUSH_DISKCACHE, bytes(512), 0, "a read or write carries data and a flush none"),
        (BlkifOp.READ, bytes(512), 0, "a read needs a buffer that can be written"),
        (BlkifOp.INDIRECT, bytes(512), 0, "is the engine's choice"),
        (BlkifOp.DISCARD, None, 100, "must be multiples of 512 bytes"),
        (BlkifOp.DISCARD, None, SIZE + 512, "are outside the disk of 65536 bytes"),
    ],
)
def test_what_no_disk_could_serve(op: BlkifOp, buffer: bytes | None, nr_bytes: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        checked_bio(op, 0, None if buffer is None else memoryview(buffer), nr_bytes, False, SIZE)
