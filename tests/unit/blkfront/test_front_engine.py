"""Both frontend engines against a backend by hand: requests, pool order, completions, distrust."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkfront.bio import Bio
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifRequest
from xenblk.errors import BlkifPeerError, PeerError, RingPeerError

HANDLE = 51712


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=repr)
@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
def test_a_write_and_a_read(make: Callable[..., Any], abi: Abi, persistent: bool) -> None:
    world, disk = make(abi=abi, persistent=persistent), bytearray(1 << 16)
    data = os.urandom(5 * SECTOR_SIZE + PAGE_SIZE)
    back = bytearray(len(data))
    for op, buffer in ((BlkifOp.WRITE, data), (BlkifOp.READ, back)):
        bio = world.submit(op, 3 * SECTOR_SIZE, buffer)
        world.go()
        (request,) = world.take()
        assert (request.operation, request.handle, request.sector_number) == (op, HANDLE, 3)
        assert [(s.first_sect, s.last_sect) for s in request.segments] == [(0, 7), (0, 4)]
        assert world.engine.collect() == []
        assert world.engine.in_flight == 1
        world.move(request, disk)
        world.answer(request)
        assert world.engine.collect() == [bio]
        assert bio.error is None
        assert not world.engine.busy
    assert back == data
    assert disk[3 * SECTOR_SIZE :][: len(data)] == data
    assert world.refs_in_use == 0


def test_flush_carries_no_segment(make: Callable[..., Any]) -> None:
    world = make()
    bio = world.submit(BlkifOp.FLUSH_DISKCACHE)
    world.go()
    (request,) = world.take()
    assert (request.operation, request.nr_segments) == (BlkifOp.FLUSH_DISKCACHE, 0)
    world.answer(request)
    assert world.engine.collect() == [bio]


def test_a_long_bio_is_pieces_of_11_pages_and_done_with_the_last(make: Callable[..., Any]) -> None:
    world = make()
    bio = world.submit(BlkifOp.READ, 0, bytearray(25 * PAGE_SIZE + 512))
    world.go()
    requests = world.take()
    assert [request.nr_segments for request in requests] == [11, 11, 4]
    assert [request.sector_number for request in requests] == [0, 88, 176]
    for request in requests[::-1]:
        assert world.engine.collect() == []
        world.answer(request)
    assert world.engine.collect() == [bio]


@pytest.mark.parametrize(
    ("statuses", "number"), [((-1, 0), errno.EIO), ((0, -2), errno.EOPNOTSUPP), ((-2, 77), errno.EIO)]
)
def test_a_bad_status_of_any_piece_is_the_bio_s(
    make: Callable[..., Any], statuses: tuple[int, int], number: int
) -> None:
    world = make()
    bio = world.submit(BlkifOp.WRITE, 512, bytes(12 * PAGE_SIZE))
    world.go()
    for request, status in zip(world.take(), statuses, strict=True):
        world.answer(request, status)
    assert world.engine.collect() == [bio]
    assert isinstance(bio.error, OSError)
    assert bio.error.errno == number
    assert str(bio.error).endswith(f"the backend answered status {[s for s in statuses if s][-1]} to WRITE at 512")


def test_a_read_is_copied_out_whatever_the_status(make: Callable[..., Any]) -> None:
    world, buffer = make(), bytearray(512)
    world.submit(BlkifOp.READ, 0, buffer)
    world.go()
    (request,) = world.take()
    world.move(request, bytearray(b"x" * 512))
    world.answer(request, -1)
    world.engine.collect()
    assert buffer == b"x" * 512


def test_what_the_ring_has_no_room_for_waits(make: Callable[..., Any]) -> None:
    world = make()
    bios = [world.submit(BlkifOp.READ, i * 512, bytearray(512)) for i in range(40)]
    world.go()
    first = world.take()
    assert len(first) == 32
    assert not world.go()
    for request in first[:10]:
        world.answer(request)
    assert world.engine.collect() == bios[:10]
    world.go()
    assert [request.sector_number for request in world.take()] == list(range(32, 40))
    assert world.engine.in_flight == 30


def test_a_lack_of_pool_pages_or_references_waits(make: Callable[..., Any]) -> None:
    for options in ({"nr_pages": 15}, {"nr_grants": 8 + 15}):
        world = make(**options)
        for _ in range(2):
            world.submit(BlkifOp.READ, 0, bytearray(11 * PAGE_SIZE))
        world.go()
        (request,) = world.take()
        world.answer(request)
        assert len(world.engine.collect()) == 1
        world.go()
        assert len(world.take()) == 1


def test_kept_pages_are_taken_first_with_the_references_they_have(make: Callable[..., Any]) -> None:
    world = make()
    world.submit(BlkifOp.WRITE, 0, bytes(4 * PAGE_SIZE))
    world.go()
    (request,) = world.take()
    refs = [segment.gref for segment in request.segments]
    for gref in (refs[0], refs[2], refs[3]):
        world.map(gref)
    world.answer(request)
    world.engine.collect()
    assert world.refs_in_use == 3
    world.submit(BlkifOp.WRITE, 0, bytes(3 * PAGE_SIZE))
    world.go()
    (request,) = world.take()
    assert [segment.gref for segment in request.segments] == [refs[0], refs[2], refs[3]], "as they came back"


def test_a_buffer_of_the_domain_is_lent_in_place_unless_persistent(make: Callable[..., Any]) -> None:
    world = make(persistent=False)
    buffer = world.memory.join(world.memory.allocate_run(14))[512 : 512 + 13 * PAGE_SIZE]
    buffer[:] = os.urandom(len(buffer))
    bio = world.submit(BlkifOp.WRITE, 0, buffer)
    world.go()
    first, second = world.take()
    assert [(s.first_sect, s.last_sect) for s in first.segments] == [(1, 7)] + [(0, 7)] * 10
    assert [(s.first_sect, s.last_sect) for s in second.segments] == [(0, 7), (0, 7), (0, 0)]
    assert second.sector_number == 11 * 8 - 1
    assert world.granted(first.segments[0].gref)[512:] == buffer[: PAGE_SIZE - 512]
    for request in (first, second):
        world.answer(request)
    assert world.engine.collect() == [bio]
    assert world.refs_in_use == 0
    copied = make(persistent=True)
    run = copied.memory.join(copied.memory.allocate_run(1))
    copied.submit(BlkifOp.WRITE, 0, run)
    copied.go()
    copied.granted(copied.take()[0].segments[0].gref)[:] = b"\xff" * PAGE_SIZE
    assert bytes(run) == bytes(PAGE_SIZE)


def test_one_notification_or_none_per_push(make: Callable[..., Any]) -> None:
    world = make()
    for _ in range(20):
        world.submit(BlkifOp.READ, 0, bytearray(512))
    assert world.go(), "the first request passes the event index"
    assert not world.go(), "nothing new"
    for _ in range(3):
        world.submit(BlkifOp.READ, 0, bytearray(512))
    assert not world.go(), "the backend is awake"
    assert (world.counters.notify_sent, world.counters.notify_held) == (1, 1)
    world.take()
    assert not world.back.final_check()
    world.submit(BlkifOp.READ, 0, bytearray(512))
    assert world.go(), "the backend sleeps"
    assert world.counters.notify_sent == 2


def lie_about_id(world: Any, request: BlkifRequest) -> None:
    world.answer(request, id=32)


def lie_about_operation(world: Any, request: BlkifRequest) -> None:
    world.answer(request, operation=1)


def lie_about_index(world: Any, _request: BlkifRequest) -> None:
    world.sring[8:12] = (77).to_bytes(4, "little")


def keep_pages(world: Any, request: BlkifRequest) -> None:
    world.map(request.segments[0].gref)
    world.answer(request)


LIES = [
    (lie_about_id, BlkifPeerError, "the backend answered request 0x20, which is not waiting for an answer"),
    (lie_about_operation, BlkifPeerError, "the backend answered operation 1 to request 1, whose is 0"),
    (lie_about_index, RingPeerError, "the backend published rsp_prod 77; it may be from rsp_cons 1 to req_prod 3"),
    (keep_pages, BlkifPeerError, "the backend still maps 1 pages of a request that it answered"),
]


def collect_all(world: Any, done: list[Bio]) -> None:
    """Collect until the engine has had enough."""
    for _ in range(3):
        done += world.engine.collect()


@pytest.mark.parametrize(("lie", "kind", "sentence"), LIES)
def test_regression_a_backend_that_lies_loses_no_bio(
    make: Callable[..., Any], lie: Any, kind: type[PeerError], sentence: str
) -> None:
    """What was done before the lie is done; all else ends with the error, each bio once."""
    world = make(persistent=False)
    first, *others = (world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(3))
    world.go()
    requests = world.take()
    done: list[Bio] = []
    world.answer(requests[0])
    if lie is lie_about_index:
        done += world.engine.collect()
    lie(world, requests[1])
    with pytest.raises(kind, match=sentence):
        collect_all(world, done)
    assert world.engine.must_look_again()
    with pytest.raises(kind, match=sentence):
        world.engine.collect()
    later = world.submit(BlkifOp.READ, 0, bytearray(512))
    error = OSError(errno.EIO, "lost")
    assert done == [first]
    assert first.error is None
    assert world.engine.fail_all(error) == [*others, later]
    assert all(bio.error is error for bio in (*others, later))


def test_an_answer_twice_is_not_believed(make: Callable[..., Any]) -> None:
    world = make()
    first, second = (world.submit(BlkifOp.READ, 0, bytearray(512)) for _ in range(2))
    world.go()
    request, _other = world.take()
    world.answer(request)
    world.answer(request)
    done: list[Bio] = []
    with pytest.raises(BlkifPeerError, match="request 0x0, which is not waiting"):
        collect_all(world, done)
    assert done == [first]
    assert world.engine.fail_all(OSError(errno.EIO, "lost")) == [second]


def test_fail_all_ends_a_bio_that_is_half_on_the_ring_once(make: Callable[..., Any]) -> None:
    world = make()
    bios = [world.submit(BlkifOp.READ, 0, bytearray(35 * 11 * PAGE_SIZE)) for _ in range(2)]
    world.go()
    assert world.engine.fail_all(OSError(errno.EIO, "lost")) == bios


def test_close_gives_back_what_is_not_mapped(make: Callable[..., Any]) -> None:
    world = make()
    for _ in range(2):
        world.submit(BlkifOp.READ, 0, bytearray(2 * PAGE_SIZE))
    world.go()
    first, second = world.take()
    world.map(first.segments[0].gref)
    world.map(second.segments[1].gref)
    world.answer(first)
    world.engine.collect()
    world.engine.fail_all(OSError(errno.EIO, "lost"))
    world.close()
    assert world.refs_in_use == 2
    world.table._check()
