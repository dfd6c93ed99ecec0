"""The native engine does what the Python engine does, by seed, with backends that refuse, keep pages and let go."""

import dataclasses
import errno
import random
from typing import Any

import pytest

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.features import Features
from xenblk.blkif import BlkifOp, BlkifRequest, IndirectRequest, Request

OPS = [BlkifOp.READ, BlkifOp.WRITE, BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE, BlkifOp.DISCARD]
WEIGHTS = [6, 6, 1, 2, 1]
DISK_BYTES = 1 << 20
ARENA_PAGES = 30


class Script:
    """What a seed does to a world, and in `seen` all that is to be seen of it but the references."""

    def __init__(self, seed: int, world: Any) -> None:
        self.rng, self.world = random.Random(seed), world
        self.seen: list[Any] = []
        self.disk = bytearray(self.rng.randbytes(DISK_BYTES))
        self.outstanding: list[Request] = []
        self.names: dict[Bio, int] = {}
        self.buffers: dict[Bio, Any] = {}
        self.arena = world.memory.join(world.memory.allocate_run(ARENA_PAGES))
        self.mapped: dict[int, int] = {}
        self.now_ns = 0

    def run(self) -> list[Any]:
        for _ in range(self.rng.randint(5, 40)):
            for _ in range(self.rng.choice([0, 1, 1, 2, 5, 40])):
                self.submit()
            self.take()
            self.answer()
            self.collect()
            self.let_go()
            if self.rng.random() < 0.3:
                self.seen.append(self.world.back.final_check())
        self.end()
        return self.seen

    def submit(self) -> None:
        rng = self.rng
        (op,) = rng.choices(OPS, WEIGHTS)
        nr_sectors = rng.choice([1, 8, 8, 8, 16, rng.randint(1, 240)])
        at = rng.randrange(240 - nr_sectors + 1) * 512 + rng.choice([0, 0, 0, 8])
        buffer: Any = memoryview(bytearray(rng.randbytes(nr_sectors * 512)))
        if rng.random() < 0.3 and at + buffer.nbytes <= self.arena.nbytes:
            buffer = self.arena[at : at + buffer.nbytes]
        offset = rng.randrange(DISK_BYTES // 512 - nr_sectors) * 512
        if op == BlkifOp.DISCARD:
            bio = self.world.submit(op, offset, nr_bytes=nr_sectors * 512, secure=rng.random() < 0.3)
        else:
            bio = self.world.submit(op, offset, None if op == BlkifOp.FLUSH_DISKCACHE else buffer)
        self.names[bio], self.buffers[bio] = len(self.names), buffer

    def take(self) -> None:
        world = self.world
        self.seen.append(("notify", world.go(), world.engine.in_flight, world.engine.busy))
        requests = world.take()
        self.outstanding += requests
        for request in requests:
            self.seen.append(without_references(request))
            self.seen.append([(s.first_sect, s.last_sect) for s in world.segments(request)])
            self.seen.append([world.frame(gref) for gref in world.grefs(request)])
            for gref in world.grefs(request):
                if world.keeps and self.rng.random() < 0.7:
                    world.map(gref)
                    self.mapped[world.frame(gref)] = gref

    def answer(self) -> None:
        self.rng.shuffle(self.outstanding)
        for _ in range(self.rng.randint(0, len(self.outstanding))):
            request = self.outstanding.pop()
            self.world.move(request, self.disk)
            self.world.answer(request, self.rng.choice([0] * 12 + [-1, -2]))

    def collect(self) -> None:
        done = self.world.engine.collect()
        self.seen.append(
            [(self.names[bio], bio.error and bio.error.errno, str(bio.error), bytes(self.buffers[bio])) for bio in done]
        )

    def let_go(self) -> None:
        """The backend unmaps some pages, and the frontend finds them when it is time to."""
        world, engine = self.world, self.world.engine
        for frame in self.rng.sample(sorted(self.mapped), len(self.mapped) // 3):
            world.map(self.mapped.pop(frame), False)
        self.now_ns += self.rng.choice([10**9, 10**10])
        self.seen.append((engine.reclaim(self.now_ns), engine.persistent_gnts_c, repr(world.features)))
        self.seen.append((world.counters.snapshot(), world.table.free_count, engine.busy))

    def end(self) -> None:
        engine = self.world.engine
        give_up = self.rng.random() < 0.5
        bios = engine.take_unfinished() if give_up else engine.fail_all(OSError(errno.EIO, "lost"))
        self.seen.append([self.names[bio] for bio in bios])
        self.world.close()
        self.seen.append((self.world.table.free_count, self.world.table.end_deferred()))


def without_references(request: Request) -> Request:
    if isinstance(request, IndirectRequest):
        return dataclasses.replace(request, indirect_grefs=tuple(gref > 0 for gref in request.indirect_grefs))
    return dataclasses.replace(request, segments=()) if isinstance(request, BlkifRequest) else request


def random_options(rng: random.Random) -> dict[str, Any]:
    """A connection: what both sides agreed on, and how little there may be of everything."""
    max_segments = rng.choice([11, 11, 12, 20, 32])
    return {
        "max_segments": max_segments,
        "nr_pages": rng.choice([33, 60, 100]),
        "nr_grants": 8 + rng.choice([max_segments + 1, 50, 120]),
        "trusted": rng.random() < 0.7,
    }


def random_features(rng: random.Random) -> Features:
    names = ("flush_cache", "barrier", "discard", "discard_secure")
    return Features(**{name: rng.random() < 0.7 for name in names})


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
@pytest.mark.parametrize("seed", range(12))
def test_the_engines_are_equal(world_of: Any, seed: int, persistent: bool) -> None:
    """Same bios, same answers: same slots but for the references, same pages, same order of completion, same counts."""
    runs = []
    for engine in ("native", "python"):
        rng = random.Random(f"options {seed}")
        options, features = random_options(rng), random_features(rng)
        runs.append(Script(seed, world_of(engine, persistent=persistent, features=features, **options)).run())
    for step, (one, other) in enumerate(zip(*runs, strict=True)):
        assert one == other, f"seed {seed}, observation {step}"
