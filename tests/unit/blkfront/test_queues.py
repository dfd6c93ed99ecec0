"""Several rings of one frontend: how bios are spread over them, and what a barrier holds back."""

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.features import Features
from xenblk.blkfront.queues import Queues
from xenblk.blkif import BlkifOp

READ, WRITE, BARRIER = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.WRITE_BARRIER


class Side:
    """A ring and its data path, as Queues wants them; `world` is the backend's end by hand."""

    def __init__(self, world: Any) -> None:
        self.world, self.engine = world, world.engine
        self.channel = self
        self.notified = 0

    def notify(self) -> None:
        self.notified += 1

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Rings:
    """A frontend with rings, each served by hand."""

    def __init__(self, make: Callable[..., Any], number: int) -> None:
        features = Features(barrier=True)
        self.sides = [Side(make(features=features, persistent=False, nr_pages=33)) for _ in range(number)]
        sides = iter(self.sides)
        self.queues = Queues(lambda: next(sides), number)  # type: ignore[arg-type,return-value]
        self.queues.start(lambda number, _ring: self.sides[number])  # type: ignore[arg-type,return-value]
        self.done: list[Bio] = []

    def submit(self, *operations: BlkifOp) -> list[Bio]:
        bios = [Bio(op, 512 * at, memoryview(bytearray(512))) for at, op in enumerate(operations)]
        self.queues.submit(bios)
        return bios

    def step(self) -> list[list[Any]]:
        """Send and collect; what came to each ring."""
        self.done += self.queues.step()[0]
        self.queues.send()
        return [side.world.take() for side in self.sides]

    def answer(self, side: int, *requests: Any) -> list[list[Any]]:
        for request in requests:
            self.sides[side].world.answer(request)
        return self.step()

    def close(self) -> None:
        for side in self.sides:
            side.world.close()


@pytest.fixture
def rings_of(make: Callable[..., Any]) -> Iterator[Callable[[int], Rings]]:
    """Makes frontends with so many rings."""
    made: list[Rings] = []

    def rings(number: int) -> Rings:
        made.append(Rings(make, number))
        return made[-1]

    yield rings
    for one in made:
        one.close()


def operations(requests: list[list[Any]]) -> list[list[int]]:
    return [[request.operation for request in ring] for ring in requests]


def test_bios_go_to_the_rings_in_turn(rings_of: Any) -> None:
    rings = rings_of(3)
    rings.submit(*[WRITE] * 7)
    assert operations(rings.step()) == [[1] * 3, [1] * 2, [1] * 2]
    assert [side.notified for side in rings.sides] == [1, 1, 1]


def test_a_barrier_waits_for_all_rings_and_all_rings_for_it(rings_of: Any) -> None:
    rings = rings_of(2)
    first, second, barrier, *_rest = rings.submit(WRITE, WRITE, BARRIER, WRITE, READ)
    (one,), (other,) = rings.step()
    assert rings.answer(1, other) == [[], []]
    assert rings.done == [second]
    (only,), nothing = rings.answer(0, one)
    assert (only.operation, nothing, rings.done) == (BARRIER, [], [second, first])
    assert rings.step() == [[], []], "what comes after it waits"
    assert operations(rings.answer(0, only)) == [[READ], [WRITE]]
    assert rings.done == [second, first, barrier]
    assert any(engine.busy for engine in rings.queues.engines)


def test_barriers_one_after_another(rings_of: Any) -> None:
    rings = rings_of(2)
    bios = rings.submit(BARRIER, BARRIER, WRITE)
    (first,), nothing = rings.step()
    assert nothing == []
    nothing, (second,) = rings.answer(0, first)
    assert (second.operation, nothing) == (BARRIER, [])
    (write,), nothing = rings.answer(1, second)
    assert (write.operation, nothing) == (WRITE, [])
    assert rings.answer(0, write) == [[], []]
    assert rings.done == bios
    assert not any(engine.busy for engine in rings.queues.engines)


def test_a_barrier_of_a_single_ring_is_the_backends_affair(rings_of: Any) -> None:
    rings = rings_of(1)
    rings.submit(WRITE, BARRIER, WRITE)
    assert operations(rings.step()) == [[WRITE, BARRIER, WRITE]]


def test_what_is_held_is_not_lost(rings_of: Any) -> None:
    rings = rings_of(2)
    bios = rings.submit(WRITE, BARRIER, WRITE, WRITE)
    rings.step()
    assert rings.queues.take_unfinished() == bios, "in the order of submission, for another connection"


def test_what_is_held_fails_with_the_rest(rings_of: Any) -> None:
    rings = rings_of(2)
    bios = rings.submit(WRITE, BARRIER, WRITE)
    rings.step()
    failed = rings.queues.fail_all(OSError(errno.ENODEV, "unplugged"))
    assert sorted(map(bios.index, failed)) == [0, 1, 2]
    assert [bio.error.errno for bio in bios if bio.error] == [errno.ENODEV] * 3
