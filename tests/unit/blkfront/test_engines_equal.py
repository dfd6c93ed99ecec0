"""The native engine does what the Python engine does, by seed."""

import dataclasses
import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.blkfront.bio import Bio
from xenblk.blkif import BlkifOp, BlkifRequest


def random_steps(seed: int) -> Callable[[Any], list[Any]]:
    """What a seed does to a world, and all that is seen of it but the references."""

    def run(world: Any) -> list[Any]:
        rng, seen = random.Random(seed), []
        disk = bytearray(rng.randbytes(1 << 20))
        outstanding: list[BlkifRequest] = []
        names: dict[Bio, int] = {}
        arena = world.memory.join(world.memory.allocate_run(30))
        buffers = {}
        for step in range(rng.randint(5, 60)):
            for _ in range(rng.choice([0, 1, 1, 2, 5, 40])):
                op = rng.choice([BlkifOp.READ, BlkifOp.WRITE, BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE])
                nr_sectors = rng.choice([1, 8, 8, 8, 16, rng.randint(1, 240)])
                at = rng.randrange(240 - nr_sectors + 1) * 512 + rng.choice([0, 0, 0, 8])
                buffer: Any = memoryview(bytearray(rng.randbytes(nr_sectors * 512)))
                if rng.random() < 0.3 and at + nr_sectors * 512 <= arena.nbytes:
                    buffer = arena[at : at + nr_sectors * 512]
                offset = rng.randrange((1 << 20) // 512 - nr_sectors) * 512
                bio = world.submit(op, offset, None if op == BlkifOp.FLUSH_DISKCACHE else buffer)
                names[bio], buffers[bio] = len(names), buffer
            seen.append(("notify", world.go(), world.engine.in_flight, world.engine.busy))
            outstanding += (requests := world.take())
            for request in requests:
                seen.append(
                    dataclasses.replace(request, segments=[(s.first_sect, s.last_sect) for s in request.segments])
                )
                seen.append([world.frame(s.gref) for s in request.segments])
                for segment in request.segments:
                    if world.keeps and rng.random() < 0.7:
                        world.map(segment.gref)
            rng.shuffle(outstanding)
            for _ in range(rng.randint(0, len(outstanding))):
                request = outstanding.pop()
                world.move(request, disk)
                world.answer(request, rng.choice([0, 0, 0, 0, -1, -2]))
            done = world.engine.collect()
            seen.append(
                [(names[bio], bio.error and bio.error.errno, str(bio.error), bytes(buffers[bio])) for bio in done]
            )
            seen.append((step, world.counters.snapshot(), world.table.free_count))
            if rng.random() < 0.3:
                seen.append(world.back.final_check())
        seen.append([names[bio] for bio in world.engine.fail_all(OSError(errno.EIO, "lost"))])
        world.close()
        seen.append(world.table.free_count)
        return seen

    return run


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
@pytest.mark.parametrize("seed", range(12))
def test_the_engines_are_equal(world_of: Any, seed: int, persistent: bool) -> None:
    """Same bios, same answers: same slots but for the references, same pages, same order of completion, same counts."""
    worlds = [world_of(engine, persistent=persistent, nr_pages=60, nr_grants=8 + 50) for engine in ("native", "python")]
    native, python = (random_steps(seed)(world) for world in worlds)
    for step, (one, other) in enumerate(zip(native, python, strict=True)):
        assert one == other, f"seed {seed}, observation {step}"
