"""A disk in asyncio, with either engine: many in flight, cancelled awaits, a close and a death in the middle."""

import asyncio
import errno
import os
import random
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from xenblk.blkfront import AsyncDisk

BS = 512


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest) -> Any:
    """The frontend's engine."""
    return request.param


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_many_in_flight_hold_what_was_written(world: Any, engine: str) -> None:
    world.backend()
    frontend = world.frontend(world.attach("memory:1M"), engine=engine)
    model, rng = bytearray(1 << 20), random.Random(1)

    async def use(disk: AsyncDisk, number: int) -> None:
        """A task with a part of the disk of its own."""
        first = number * 8192
        for _ in range(20):
            at = first + rng.randrange(8) * BS
            data = rng.randbytes(BS * rng.randint(1, 8))
            assert await disk.pwrite(data, at) == len(data)
            model[at : at + len(data)] = data
            assert await disk.pread(8192, first) == model[first : first + 8192]
        await disk.flush()

    async def main() -> None:
        async with AsyncDisk(frontend) as disk:
            assert (disk.size, disk.read_only) == (1 << 20, False)
            await asyncio.gather(*(use(disk, number) for number in range(100)))
            assert await disk.pread(1 << 20, 0) == model
            assert await disk.pread(4096, (1 << 20) - BS) == model[-BS:]
            assert await disk.pread(BS, 1 << 20) == b""

    run(main())


def test_tasks_of_one_turn_share_a_notification(world: Any, engine: str) -> None:
    world.backend()
    domid = world.attach()
    frontend = world.frontend(domid, engine=engine)

    async def main() -> None:
        async with AsyncDisk(frontend) as disk:
            await asyncio.gather(*(disk.pread(BS, number * BS) for number in range(32)))
            counts = world.counts(domid, "front")
            assert counts["notify_sent"] + counts["notify_held"] == 1
            assert world.counts(domid)["rd_req"] == 32

    run(main())


def test_errors_are_those_of_a_virtual_disk(world: Any, engine: str, image: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach(str(image), "r"), engine=engine)

    async def main() -> None:
        async with AsyncDisk(frontend) as disk:
            with pytest.raises(OSError, match="multiples of 512") as raised:
                await disk.pread(100, 0)
            assert raised.value.errno == errno.EINVAL
            with pytest.raises(OSError, match="read-only") as raised:
                await disk.pwrite(bytes(BS), 0)
            assert raised.value.errno == errno.EROFS
            await disk.flush()
        with pytest.raises(OSError, match="closed") as raised:
            await disk.pread(BS, 0)
        assert raised.value.errno == errno.ENODEV

    run(main())


def test_a_cancelled_await_leaves_its_operation_and_the_disk_whole(world: Any, engine: str) -> None:
    world.backend()
    frontend = world.frontend(world.attach(), engine=engine)
    data = os.urandom(64 * BS)

    async def main() -> None:
        async with AsyncDisk(frontend) as disk:
            await disk.pwrite(data, 0)
            for round_ in range(20):
                tasks = [asyncio.create_task(disk.pread(64 * BS, 0)) for _ in range(40)]
                for _ in range(round_ % 3):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert results[1::2] == [data] * 20
                assert all(isinstance(result, asyncio.CancelledError) or result == data for result in results)
            while disk._waiting:
                await disk.pread(BS, 0)
            assert not frontend._xenbus.queues.busy

    run(main())


def test_close_fails_what_is_in_flight(world: Any, engine: str) -> None:
    backend = world.backend()
    domid = world.attach()
    frontend = world.frontend(domid, engine=engine)
    backend.signal(signal.SIGSTOP)

    async def main() -> None:
        disk = AsyncDisk(frontend)
        tasks = [asyncio.create_task(disk.pread(BS, 0)) for _ in range(40)]
        await asyncio.sleep(0.01)
        os.kill(backend.pid, signal.SIGCONT)
        await disk.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, OSError)
            assert result.errno == errno.ENODEV
        await disk.close()

    run(main())


def test_a_backend_that_dies_fails_what_is_in_flight(world: Any, engine: str) -> None:
    backend = world.backend()
    frontend = world.frontend(world.attach(), engine=engine)

    async def main() -> None:
        disk = AsyncDisk(frontend)
        await disk.pread(BS, 0)
        backend.signal(signal.SIGSTOP)
        tasks = [asyncio.create_task(disk.pread(BS, 0)) for _ in range(40)]
        await asyncio.sleep(0.01)
        os.kill(backend.pid, signal.SIGKILL)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, OSError)
            assert result.errno == errno.ENODEV
        await disk.close()

    run(main())
