"""What a frontend shows to a backend, and for how long: zeroed pages, bounced data, grants that follow the backend."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkfront.engine import RECLAIM_EVERY_NS
from xenblk.blkif import X86_64, BlkifOp, BlkifResponse
from xenblk.errors import BlkifPeerError, PeerError


def sent(world: Any) -> list[Any]:
    """What is on the ring once all that is queued was put there."""
    world.go()
    return list(world.take())


def dirty(world: Any) -> None:
    """Leave something in every page of the domain that is handed out later."""
    pages = [world.memory.allocate_page() for _ in range(500)]
    for page in pages:
        page.view[:] = b"\xaa" * PAGE_SIZE
    for page in pages:
        world.memory.free_page(page)


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "untrusted"])
def test_xsa_403_a_page_is_zero_when_it_is_first_granted(make: Callable[..., Any], persistent: bool) -> None:
    """All that a backend finds in a page beside the request's own data; a page is granted for one thing only."""
    used = make(nr_pages=33)
    dirty(used)
    world = make(before=used, persistent=persistent, trusted=False, max_segments=32, nr_pages=330)
    world.submit(BlkifOp.WRITE, 0, b"w" * 512)
    world.submit(BlkifOp.READ, 0, bytearray(b"r" * 20 * PAGE_SIZE))
    world.submit(BlkifOp.READ, 0, world.memory.join(world.memory.allocate_run(5)))
    write, indirect, read = sent(world)
    assert bytes(world.granted(write.segments[0].gref)) == b"w" * 512 + bytes(PAGE_SIZE - 512)
    described = 20 * 8
    assert bytes(world.granted(indirect.indirect_grefs[0])[described:]) == bytes(PAGE_SIZE - described)
    for segment in (*world.segments(indirect), *read.segments):
        assert bytes(world.granted(segment.gref)) == bytes(PAGE_SIZE)


def test_a_backend_that_is_not_trusted_sees_pages_of_the_pool_only(make: Callable[..., Any]) -> None:
    world = make(persistent=False, trusted=False)
    run = world.memory.allocate_run(3)
    own = {page.frame for page in run}
    bio = world.submit(BlkifOp.WRITE, 0, world.memory.join(run)[512 : 512 + PAGE_SIZE])
    (request,) = sent(world)
    assert [(s.first_sect, s.last_sect) for s in request.segments] == [(0, 7)]
    assert not {world.frame(segment.gref) for segment in request.segments} & own
    world.answer(request)
    assert world.engine.collect() == [bio]
    assert world.refs_in_use == 0, "without persistent grants each ends with its request"
    world.submit(BlkifOp.WRITE, 0, bytes(512))
    (request,) = sent(world)
    world.map(request.segments[0].gref)
    world.answer(request)
    with pytest.raises(BlkifPeerError, match="still maps 1 pages"):
        world.engine.collect()


def test_the_walk_follows_the_backend_s_purge_every_10_s(make: Callable[..., Any]) -> None:
    world, start_ns = make(), 10**15
    world.submit(BlkifOp.WRITE, 0, bytes(4 * PAGE_SIZE))
    (request,) = sent(world)
    refs = [segment.gref for segment in request.segments]
    for gref in refs:
        world.map(gref)
    world.answer(request)
    world.engine.collect()
    assert world.engine.persistent_gnts_c == 4
    assert world.engine.reclaim(start_ns) == 0, "all are mapped"
    world.map(refs[1], False)
    world.map(refs[2], False)
    assert world.engine.reclaim(start_ns + RECLAIM_EVERY_NS - 1) == 0, "too early"
    assert world.engine.reclaim(start_ns + RECLAIM_EVERY_NS) == 2
    assert world.engine.persistent_gnts_c == world.refs_in_use == 2
    world.submit(BlkifOp.WRITE, 0, bytes(2 * PAGE_SIZE))
    (request,) = sent(world)
    assert [segment.gref for segment in request.segments] == [refs[0], refs[3]], "those that are kept stay in order"
    for gref in (refs[0], refs[3]):
        world.map(gref, False)
    assert world.engine.reclaim(start_ns + 2 * RECLAIM_EVERY_NS) == 0, "what is in use is not idle"


def test_the_walk_is_of_persistent_grants_only(make: Callable[..., Any]) -> None:
    world = make(persistent=False, trusted=False)
    world.submit(BlkifOp.WRITE, 0, bytes(PAGE_SIZE))
    (request,) = sent(world)
    world.map(request.segments[0].gref)
    world.answer(request)
    with pytest.raises(BlkifPeerError):
        world.engine.collect()
    world.map(request.segments[0].gref, False)
    assert world.engine.reclaim(10**15) == 0


def test_xsa_396_a_page_is_not_used_again_while_it_is_mapped(make: Callable[..., Any]) -> None:
    """Neither a response nor the walk takes it from the backend, however often they look."""
    world = make(nr_pages=33)
    world.submit(BlkifOp.READ, 0, bytearray(PAGE_SIZE))
    (request,) = sent(world)
    gref = request.segments[0].gref
    frame = world.frame(gref)
    world.map(gref)
    world.answer(request)
    world.engine.collect()
    for i in range(50):
        assert world.engine.reclaim(i * RECLAIM_EVERY_NS) == 0
        assert world.frame(gref) == frame
    world.map(gref, False)
    assert world.engine.reclaim(50 * RECLAIM_EVERY_NS) == 1
    assert world.refs_in_use == 0


def test_a_response_is_read_once(make: Callable[..., Any]) -> None:
    """A backend that changes its answer for ever: each is believed as it was read, or not at all."""
    good = [X86_64.pack_response(BlkifResponse(id_, 0, status)) for id_ in (0, 1) for status in (0, -1)]
    bad = [X86_64.pack_response(BlkifResponse(2**63, 0, 0)), X86_64.pack_response(BlkifResponse(0, 1, 0))]
    answers = [response[:16] for response in good + bad]
    for _ in range(30):
        world, stop = make(nr_pages=33), threading.Event()
        bios = [world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(2)]
        assert len(sent(world)) == 2
        world.sring[64 : 64 + 16] = answers[0]

        def mutate(sring: memoryview = world.sring, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                for answer in answers:
                    sring[64 : 64 + 16] = answer

        thread = threading.Thread(target=mutate)
        thread.start()
        world.sring[8:12] = (1).to_bytes(4, "little")
        try:
            done = world.engine.collect()
            assert len(done) == 1
            assert done[0] in bios
        except PeerError:
            done = []
        stop.set()
        thread.join()
        assert world.engine.take_unfinished() == [bio for bio in bios if bio not in done]
        world.close()
        assert world.refs_in_use == 0


def test_an_answer_that_changes_afterwards_changes_nothing(make: Callable[..., Any]) -> None:
    world, buffer = make(), bytearray(512)
    bio = world.submit(BlkifOp.READ, 0, buffer)
    (request,) = sent(world)
    world.move(request, bytearray(b"x" * 512))
    world.answer(request)
    assert world.engine.collect() == [bio]
    world.sring[64 : 64 + 16] = b"\xff" * 16
    assert (bio.error, buffer) == (None, b"x" * 512)
    assert world.engine.collect() == []
    assert not world.engine.busy
