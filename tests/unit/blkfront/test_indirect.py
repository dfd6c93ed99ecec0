"""Indirect requests: when, how their segments are described, their pool pages, and what is believed of the answer."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkfront.connection import pool_size
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifRequest, IndirectRequest
from xenblk.errors import BlkifPeerError

HANDLE = 51712


def sent(world: Any) -> list[Any]:
    """What is on the ring once all that is queued was put there."""
    world.go()
    return list(world.take())


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=repr)
@pytest.mark.parametrize("mode", ["persistent", "in place", "untrusted"])
def test_a_write_and_a_read(make: Callable[..., Any], abi: Abi, mode: str) -> None:
    world = make(abi=abi, persistent=mode == "persistent", trusted=mode != "untrusted", max_segments=32)
    disk = bytearray(1 << 18)
    data, back = (world.memory.join(world.memory.allocate_run(33))[512:][: 31 * PAGE_SIZE + 1024] for _ in range(2))
    data[:] = os.urandom(len(data))
    for op, buffer in ((BlkifOp.WRITE, data), (BlkifOp.READ, back)):
        bio = world.submit(op, 3 * 512, buffer)
        (request,) = sent(world)
        assert isinstance(request, IndirectRequest)
        assert (request.indirect_op, request.handle, request.sector_number, request.nr_segments) == (op, HANDLE, 3, 32)
        assert request.indirect_grefs[1:] == (0,) * 7
        ends = [(1, 7), (0, 7), (0, 2)] if mode == "in place" else [(0, 7), (0, 7), (0, 1)]
        segments = world.segments(request)
        assert [(s.first_sect, s.last_sect) for s in segments] == [ends[0]] + [ends[1]] * 30 + [ends[2]]
        assert len(set(world.grefs(request))) == 33
        world.move(request, disk)
        world.answer(request)
        assert world.engine.collect() == [bio]
        assert bio.error is None
    assert back == data
    assert world.refs_in_use == 0


@pytest.mark.parametrize("max_segments", [1, 11, 12, 32, 256])
def test_as_few_requests_as_possible(make: Callable[..., Any], max_segments: int) -> None:
    world = make(max_segments=max_segments)
    pages = 300
    bio = world.submit(BlkifOp.READ, 0, bytearray(pages * PAGE_SIZE))
    at_most, counts = max(max_segments, 11), []
    while not counts or sum(counts) < pages:
        for request in sent(world):
            assert isinstance(request, BlkifRequest if request.nr_segments <= 11 else IndirectRequest)
            counts.append(request.nr_segments)
            world.answer(request)
        done = world.engine.collect()
    assert done == [bio]
    assert counts == [at_most] * (pages // at_most) + [pages % at_most] * (pages % at_most > 0)


def test_all_4096_segments_in_eight_pages(make: Callable[..., Any]) -> None:
    world = make(max_segments=4096, nr_pages=4104, nr_grants=4200)
    data = os.urandom(512) * (8 * 4096)
    disk = bytearray(len(data))
    bio = world.submit(BlkifOp.WRITE, 0, data)
    (request,) = sent(world)
    assert request.nr_segments == 4096
    assert len(set(request.indirect_grefs)) == 8
    world.move(request, disk)
    assert disk == data
    world.answer(request)
    assert world.engine.collect() == [bio]
    assert world.refs_in_use == 0


def test_the_next_request_has_the_same_pages_in_their_order(make: Callable[..., Any]) -> None:
    """Of a backend that keeps all, each finds its own mapped again, and neighbours are neighbours still."""
    world, seen = make(max_segments=32), set()
    for _ in range(5):
        world.submit(BlkifOp.WRITE, 0, bytes(32 * PAGE_SIZE))
        (request,) = sent(world)
        for gref in world.grefs(request):
            world.map(gref)
        seen.add(tuple(world.grefs(request)))
        world.answer(request)
        world.engine.collect()
        assert world.engine.persistent_gnts_c == world.refs_in_use == 33
    assert len(seen) == 1


@pytest.mark.parametrize("operation", [6, 0])
def test_an_answer_must_name_the_inner_operation(make: Callable[..., Any], operation: int) -> None:
    world = make(max_segments=32)
    bio = world.submit(BlkifOp.WRITE, 0, bytes(12 * PAGE_SIZE))
    (request,) = sent(world)
    world.answer(request, operation=operation)
    with pytest.raises(BlkifPeerError, match=f"answered operation {operation} to request 0, whose is 1"):
        world.engine.collect()
    assert world.engine.fail_all(OSError(errno.EIO, "lost")) == [bio]


@pytest.mark.parametrize("mode", ["in place", "untrusted"])
def test_a_page_of_descriptors_that_is_kept_is_a_fault(make: Callable[..., Any], mode: str) -> None:
    world = make(max_segments=32, persistent=False, trusted=mode == "in place")
    buffer = world.memory.join(world.memory.allocate_run(12))
    world.submit(BlkifOp.WRITE, 0, buffer)
    (request,) = sent(world)
    world.map(request.indirect_grefs[0])
    world.answer(request)
    with pytest.raises(BlkifPeerError, match="still maps 1 pages of a request that it answered"):
        world.engine.collect()


@pytest.mark.parametrize("mode", ["persistent", "in place"])
@pytest.mark.parametrize("nr_refs", [32, 33])
def test_a_request_gets_all_its_references_or_none(make: Callable[..., Any], mode: str, nr_refs: int) -> None:
    """32 segments and their descriptors: with a reference less nothing is granted, and nothing on the ring."""
    world = make(max_segments=32, persistent=mode == "persistent", nr_grants=8 + 33)
    held = world.table.grant(0, [0] * (33 - nr_refs))
    buffer = world.memory.join(world.memory.allocate_run(32))
    bio = world.submit(BlkifOp.READ, 0, buffer)
    requests = sent(world)
    assert len(requests) == (nr_refs == 33)
    if not requests:
        assert world.table.free_count == nr_refs
        assert world.engine.in_flight == 0
        assert world.table.end_access(held.pop())
        requests = sent(world)
    world.answer(*requests)
    assert world.engine.collect() == [bio]
    assert world.table.free_count == 33


def test_descriptors_without_a_page_in_the_pool_wait(make: Callable[..., Any]) -> None:
    world = make(max_segments=32, persistent=False, nr_pages=33)
    world.submit(BlkifOp.READ, 0, bytearray(32 * PAGE_SIZE))
    lent = world.submit(BlkifOp.READ, 0, world.memory.join(world.memory.allocate_run(32)))
    (first,) = sent(world)
    free = world.table.free_count
    assert sent(world) == []
    assert world.table.free_count == free
    world.answer(first)
    world.engine.collect()
    world.answer(*sent(world))
    assert world.engine.collect() == [lent]


@pytest.mark.parametrize(
    ("nr_ents", "max_segments", "pages"),
    [(32, 11, 384), (64, 1, 768), (512, 11, 6144), (32, 32, 1056), (512, 32, 16896), (32, 512, 32 * 513)],
)
def test_the_pool_has_linux_s_size(nr_ents: int, max_segments: int, pages: int) -> None:
    assert pool_size(nr_ents, max_segments) == pages


@pytest.mark.parametrize("nr_pages", [2, 20])
@pytest.mark.parametrize(("start", "in_place"), [(0, True), (512, False)])
def test_regression_a_segment_is_whole_sectors_of_4096_bytes(
    make: Callable[..., Any], nr_pages: int, start: int, in_place: bool
) -> None:
    """A backend refuses others, so what does not begin with a page is not lent where it stands."""
    world = make(persistent=False, max_segments=32, sector_size=PAGE_SIZE)
    run = world.memory.allocate_run(nr_pages + 1)
    world.submit(BlkifOp.WRITE, 0, world.memory.join(run)[start : start + nr_pages * PAGE_SIZE])
    world.go()
    (request,) = world.take()
    segments = world.segments(request)
    assert [(segment.first_sect, segment.last_sect) for segment in segments] == [(0, 7)] * nr_pages
    assert ({world.frame(segment.gref) for segment in segments} <= {page.frame for page in run}) == in_place
    world.answer(request)
    assert len(world.engine.collect()) == 1
