"""Several rings of one disk: what they share, and how many a backend allows while it runs."""

from typing import Any

import pytest

from xenblk.abi import DOM0, PAGE_SIZE, Domid
from xenblk.blkback.parameter_nodes import parameters_path
from xenblk.blkfront import Blkfront
from xenblk.blkif import BlkifOp
from xenblk.toolstack import backend_path

XVDA = 51712
LIMIT = 100
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])


def offered_queues(world: Any, domid: Domid) -> int:
    return int(world.store.read(f"{backend_path(DOM0, domid, XVDA)}/multi-queue-max-queues"))


def use(frontend: Blkfront, queue: int, nr_pages: int) -> None:
    """Have a ring's requests use so many different pages at once, so that it keeps as many as it may."""
    queues: Any = frontend._xenbus.queues
    bios = set()
    for at in range(0, nr_pages, 10):
        queues._turn = queue
        bios.add(frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(min(10, nr_pages - at) * PAGE_SIZE))))
    while bios:
        bios -= set(frontend.poll())


@ENGINES
def test_an_overflow_of_one_ring_makes_room_in_the_other(world: Any, engine: str) -> None:
    """Linux's flag is the device's: a ring that is just full is purged as well, by 5 % of the limit."""
    world.backend("--engine", engine, "--max-queues", "2", "--max-persistent-grants", str(LIMIT))
    domid = world.attach()
    frontend = world.frontend(domid, nr_queues=2)
    use(frontend, 0, LIMIT)
    assert world.counts(domid, queue=0)["persistent_current"] == LIMIT

    def is_purged() -> bool:
        # Whichever ring is purged first clears the flag, so the other one overflows until it was the first's turn.
        use(frontend, 1, LIMIT + 10)
        return bool(world.counts(domid, queue=0)["persistent_purged"])

    world.eventually(is_purged, "the full ring is purged")
    full, overflowed = (world.counts(domid, queue=queue) for queue in (0, 1))
    assert (full["persistent_overflow"], full["rd_req"]) == (0, LIMIT // 10)
    assert overflowed["persistent_overflow"] > 0
    assert full["persistent_purged"] % 5 == 0
    assert full["persistent_current"] == LIMIT - full["persistent_purged"]


@ENGINES
def test_more_queues_are_allowed_while_the_backend_runs(world: Any, engine: str) -> None:
    """A device offers what was set when it was probed or connected last; a connection keeps what it has."""
    world.backend("--engine", engine, "--max-queues", "1")
    old, platform = world.attach(), world.boot(waiting := world.attach())
    before = world.frontend(old, nr_queues=4)
    world.store.write(f"{parameters_path(DOM0)}/max_queues", "3")
    probed = world.attach()
    assert [offered_queues(world, domid) for domid in (old, waiting, probed)] == [1, 1, 3]
    later = world.frontend(probed, nr_queues=4)
    assert (before.nr_queues, later.nr_queues) == (1, 3)
    bios = {later.submit(BlkifOp.WRITE, 0, memoryview(bytearray(512))) for _ in range(6)}
    while bios:
        bios -= set(later.poll())
    assert [world.counts(probed, queue=queue)["wr_req"] for queue in range(3)] == [2, 2, 2]
    for expected in (1, 3):
        frontend = Blkfront(platform, XVDA, nr_queues=4)
        frontend.connect()
        assert frontend.nr_queues == expected
        frontend.close()
    bio = before.submit(BlkifOp.READ, 0, memoryview(bytearray(512)))
    assert before.poll() == [bio]
    world.store.write(f"{parameters_path(DOM0)}/max_queues", "2")
    assert world.frontend(world.attach(), nr_queues=4).nr_queues == 2
    assert later.nr_queues == 3
