"""What outlives a backend: its unfinished bios, for another engine; pages that it still maps, until it lets go."""

import errno
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.features import Features
from xenblk.blkif import BlkifOp


def sent(world: Any) -> list[Any]:
    """What is on the ring once all that is queued was put there."""
    world.go()
    return list(world.take())


def serve_all(world: Any, disk: bytearray) -> list[Bio]:
    """An honest backend, until nothing is left to do."""
    done: list[Bio] = []
    while world.engine.busy:
        for request in sent(world):
            world.move(request, disk)
            world.answer(request)
        done += world.engine.collect()
    return done


def test_unfinished_bios_come_in_order_each_once(make: Callable[..., Any]) -> None:
    world = make()
    bios = [world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(20)]
    requests = sent(world)
    for request in requests[3:10]:
        world.answer(request)
    done = world.engine.collect()
    assert done == bios[3:10]
    bios += [world.submit(BlkifOp.READ, 0, bytearray(3 * 11 * PAGE_SIZE)) for _ in range(8)]
    bios.append(world.submit(BlkifOp.FLUSH_DISKCACHE))
    sent(world)
    assert world.engine.take_unfinished() == [bio for bio in bios if bio not in done]
    assert world.engine.take_unfinished() == []


def test_ids_used_again_do_not_change_the_order(make: Callable[..., Any]) -> None:
    """Ids are a stack: the last answered is the next used, whatever was submitted before it."""
    world, rng = make(), random.Random(5)
    bios, open_requests = [], []
    for _ in range(30):
        bios += [world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(3)]
        open_requests += sent(world)
        rng.shuffle(open_requests)
        for _ in range(3):
            world.answer(open_requests.pop())
        done = world.engine.collect()
        bios = [bio for bio in bios if bio not in done]
    assert len(bios) >= 1 or not world.engine.busy
    last = [world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(20)]
    sent(world)
    assert world.engine.take_unfinished() == [*bios, *last]


def test_a_bio_that_is_partly_answered_is_done_again_whole(make: Callable[..., Any]) -> None:
    world, disk = make(), bytearray(b"old" * PAGE_SIZE * 8)
    data = os.urandom(20 * PAGE_SIZE)
    bio = world.submit(BlkifOp.WRITE, 0, data)
    first, _second = sent(world)
    world.answer(first, -1)
    assert world.engine.collect() == []
    assert world.engine.take_unfinished() == [bio]
    world.close()
    later = make(before=world)
    later.engine.submit(bio)
    assert serve_all(later, disk) == [bio]
    assert bio.error is None, "the answer of a backend that is no more does not count"
    assert disk[: len(data)] == data
    later.close()
    assert later.refs_in_use == 0


def test_another_backend_without_all_that_the_first_had(make: Callable[..., Any]) -> None:
    """Indirect, persistent, flush, barrier and discard; then none of it."""
    world = make(max_segments=32, nr_pages=150, features=Features(barrier=True, discard=True))
    data, back = os.urandom(30 * PAGE_SIZE), bytearray(30 * PAGE_SIZE)
    disk = bytearray(data)
    bios = [
        world.submit(BlkifOp.READ, 0, back),
        world.submit(BlkifOp.WRITE, 0, data),
        world.submit(BlkifOp.FLUSH_DISKCACHE),
        world.submit(BlkifOp.WRITE_BARRIER, 0, bytes(512)),
        world.submit(BlkifOp.DISCARD, 0, nr_bytes=512),
    ]
    assert len(sent(world)) == 5
    unfinished = world.engine.take_unfinished()
    assert unfinished == bios
    world.close()
    later = make(before=world, persistent=False, nr_pages=150, features=Features(flush_cache=False))
    for bio in unfinished:
        later.engine.submit(bio)
    assert sorted(map(bios.index, serve_all(later, disk))) == list(range(5))
    assert [bio.error and bio.error.errno for bio in bios] == [None] * 3 + [errno.EOPNOTSUPP] * 2
    assert back == data


def test_what_a_dead_backend_maps_is_not_used_before_it_lets_go(make: Callable[..., Any]) -> None:
    world = make(nr_pages=100)
    idle, waiting = (world.submit(BlkifOp.WRITE, 0, bytes(2 * PAGE_SIZE)) for _ in range(2))
    requests = sent(world)
    held = [segment.gref for request in requests for segment in request.segments][::2]
    frames = {world.frame(gref) for gref in held}
    for gref in held:
        world.map(gref)
    world.answer(requests[0])
    assert world.engine.collect() == [idle]
    assert world.engine.take_unfinished() == [waiting]
    world.close()
    assert world.refs_in_use == len(held)
    assert world.table.end_deferred() == len(held)
    later = make(before=world, nr_pages=400)
    later.engine.submit(waiting)
    lent = {later.frame(segment.gref) for request in sent(later) for segment in request.segments}
    taken = {world.memory.allocate_page().frame for _ in range(60)}
    assert not frames & (lent | taken)
    world.map(held[0], False)
    assert world.table.end_deferred() == 1
    assert world.memory.allocate_page().frame in frames
    world.map(held[1], False)
    assert world.table.end_deferred() == 0
    later.engine.take_unfinished()
    later.close()
    assert world.refs_in_use == 0


@pytest.mark.parametrize("nr_segments", [2, 32])
def test_memory_that_was_lent_in_place_stays_granted_while_it_is_mapped(
    make: Callable[..., Any], nr_segments: int
) -> None:
    world = make(persistent=False, max_segments=32)
    buffer = world.memory.join(world.memory.allocate_run(nr_segments))
    bio = world.submit(BlkifOp.WRITE, 0, buffer)
    (request,) = sent(world)
    held = world.grefs(request)[-1]
    world.map(held)
    assert world.engine.take_unfinished() == [bio]
    world.close()
    assert world.refs_in_use == 1
    assert world.table.grants(world.frame(held))
    assert world.table.end_deferred() == 1
    world.map(held, False)
    assert world.table.end_deferred() == 0
    assert world.refs_in_use == 0


def test_regression_a_page_kept_of_several_ends_later(make: Callable[..., Any]) -> None:
    """A fault in the middle of taking a loan back: the references that were ended are not ended again."""
    world = make(persistent=False)
    world.submit(BlkifOp.WRITE, 0, world.memory.join(world.memory.allocate_run(3)))
    (request,) = sent(world)
    held = request.segments[1].gref
    world.map(held)
    world.answer(request)
    with pytest.raises(Exception, match="still maps 1 pages"):
        world.engine.collect()
    world.engine.fail_all(OSError(errno.EIO, "lost"))
    world.close()
    assert world.refs_in_use == 1
    world.map(held, False)
    assert world.table.end_deferred() == 0
    assert world.refs_in_use == 0


@pytest.mark.parametrize("fault", [False, True])
def test_regression_what_is_queued_behind_a_flush_that_is_sent_again_is_not_lost(
    make: Callable[..., Any], fault: bool
) -> None:
    """The flush stands before a bio of which a part is on the ring: two ways lead to that bio."""
    world = make(nr_pages=23, features=Features(barrier=True))
    flush = world.submit(BlkifOp.FLUSH_DISKCACHE)
    partly = world.submit(BlkifOp.READ, 0, bytearray(3 * 11 * PAGE_SIZE))
    queued = [world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(3)]
    refused, piece, _piece = sent(world)
    assert refused.operation == BlkifOp.FLUSH_DISKCACHE
    world.answer(refused, -2)
    if fault:
        world.answer(piece, id=77)
        with pytest.raises(Exception, match="not waiting for an answer"):
            world.engine.collect()
        failed = world.engine.fail_all(OSError(errno.EIO, "lost"))
    else:
        assert world.engine.collect() == []
        failed = world.engine.take_unfinished()
    assert failed == [flush, partly, *queued]
