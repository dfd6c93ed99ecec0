"""Barriers and discards, and flushes to backends that cannot: what is sent, refused, and learnt from that."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.features import Features
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifStatus, DiscardRequest

HANDLE = 51712
ALL = {"flush_cache": True, "barrier": True, "discard": True, "discard_secure": True}


def sent(world: Any) -> list[Any]:
    """What is on the ring once all that is queued was put there."""
    world.go()
    return list(world.take())


def error_of(bio: Bio) -> int | None:
    return None if bio.error is None else bio.error.errno


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=repr)
@pytest.mark.parametrize("secure", [False, True], ids=["", "secure"])
def test_a_discard_is_one_request_of_any_length(make: Callable[..., Any], abi: Abi, secure: bool) -> None:
    world = make(abi=abi, features=Features(**ALL))
    bio = world.submit(BlkifOp.DISCARD, 1024, nr_bytes=1 << 40, secure=secure)
    (request,) = sent(world)
    assert request == DiscardRequest(HANDLE, 0, 2, 1 << 31, int(secure))
    world.answer(request)
    assert world.engine.collect() == [bio]
    assert bio.error is None
    assert world.refs_in_use == 0


@pytest.mark.parametrize(
    ("features", "secure"), [(Features(), False), (Features(discard=True), True)], ids=["discard", "secure"]
)
def test_a_discard_that_is_not_offered_is_not_sent(make: Callable[..., Any], features: Features, secure: bool) -> None:
    world = make(features=features)
    bio = world.submit(BlkifOp.DISCARD, 0, nr_bytes=512, secure=secure)
    assert not world.go()
    assert world.take() == []
    assert world.engine.busy
    assert world.engine.collect() == [bio]
    assert not world.engine.busy
    assert error_of(bio) == errno.EOPNOTSUPP
    assert "the backend does not offer DISCARD" in str(bio.error)


def test_a_discard_that_is_refused_is_not_asked_for_again(make: Callable[..., Any]) -> None:
    world = make(features=Features(**ALL))
    first = world.submit(BlkifOp.DISCARD, 0, nr_bytes=512)
    world.answer(*sent(world), BlkifStatus.EOPNOTSUPP)
    assert world.engine.collect() == [first]
    assert error_of(first) == errno.EOPNOTSUPP
    assert (world.features.discard, world.features.discard_secure) == (False, False)
    second = world.submit(BlkifOp.DISCARD, 0, nr_bytes=512, secure=True)
    assert sent(world) == []
    assert world.engine.collect() == [second]
    assert error_of(second) == errno.EOPNOTSUPP


def test_a_discard_that_fails_is_asked_for_again(make: Callable[..., Any]) -> None:
    world = make(features=Features(discard=True))
    bio = world.submit(BlkifOp.DISCARD, 0, nr_bytes=512)
    world.answer(*sent(world), BlkifStatus.ERROR)
    assert world.engine.collect() == [bio]
    assert error_of(bio) == errno.EIO
    assert world.features.discard


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
def test_a_barrier_carries_data(make: Callable[..., Any], persistent: bool) -> None:
    world, disk = make(features=Features(barrier=True), persistent=persistent, max_segments=32), bytearray(1 << 17)
    data = os.urandom(13 * PAGE_SIZE)
    bio = world.submit(BlkifOp.WRITE_BARRIER, 512, data)
    first, second = sent(world)
    assert [(r.operation, r.nr_segments) for r in (first, second)] == [(2, 11), (2, 2)], "a barrier is never indirect"
    for request in (first, second):
        world.move(request, disk)
        world.answer(request)
    assert world.engine.collect() == [bio]
    assert bio.error is None
    assert disk[512:][: len(data)] == data


def test_a_barrier_that_is_not_offered_is_not_sent(make: Callable[..., Any]) -> None:
    world = make()
    bio = world.submit(BlkifOp.WRITE_BARRIER, 0, bytes(20 * PAGE_SIZE))
    later = world.submit(BlkifOp.READ, 0, bytearray(512))
    assert sent(world) == []
    assert world.engine.collect() == [bio]
    assert error_of(bio) == errno.EOPNOTSUPP
    assert world.engine.must_look_again(), "what is behind it can be sent now"
    world.answer(*sent(world))
    assert world.engine.collect() == [later]


def test_a_barrier_that_is_refused_did_not_write(make: Callable[..., Any]) -> None:
    """Linux reports success for it, and the data is nowhere; here whoever wrote it is told."""
    world = make(features=Features(barrier=True))
    bio = world.submit(BlkifOp.WRITE_BARRIER, 0, bytes(12 * PAGE_SIZE))
    for request in sent(world):
        world.answer(request, BlkifStatus.EOPNOTSUPP)
    assert world.engine.collect() == [bio]
    assert error_of(bio) == errno.EOPNOTSUPP
    assert not world.features.barrier
    assert world.features.flush_cache


def test_a_barrier_whose_write_fails_is_offered_still(make: Callable[..., Any]) -> None:
    world = make(features=Features(barrier=True))
    bio = world.submit(BlkifOp.WRITE_BARRIER, 0, bytes(512))
    world.answer(*sent(world), BlkifStatus.ERROR)
    assert world.engine.collect() == [bio]
    assert error_of(bio) == errno.EIO
    assert world.features.barrier


def test_a_flush_without_flush_cache_is_an_empty_barrier(make: Callable[..., Any]) -> None:
    world = make(features=Features(flush_cache=False, barrier=True))
    bio = world.submit(BlkifOp.FLUSH_DISKCACHE)
    (request,) = sent(world)
    assert (request.operation, request.nr_segments) == (BlkifOp.WRITE_BARRIER, 0)
    world.answer(request)
    assert world.engine.collect() == [bio]
    assert bio.error is None


def test_a_flush_that_nobody_offers_is_done_at_once(make: Callable[..., Any]) -> None:
    world = make(features=Features(flush_cache=False))
    before = world.submit(BlkifOp.WRITE, 0, bytes(512))
    flushes = [world.submit(BlkifOp.FLUSH_DISKCACHE) for _ in range(3)]
    after = world.submit(BlkifOp.WRITE, 0, bytes(512))
    (request,) = sent(world)
    assert world.engine.collect() == flushes
    assert [bio.error for bio in flushes] == [None] * 3
    world.answer(request)
    world.answer(*sent(world))
    assert world.engine.collect() == [before, after]


@pytest.mark.parametrize("offered", ["flush_cache", "barrier"])
def test_regression_a_flush_that_fails_is_an_error_and_flushes_go_on(make: Callable[..., Any], offered: str) -> None:
    """A failed fsync was hidden from whoever asked for it, and so were all that came after it."""
    world = make(features=Features(**{"flush_cache": False, offered: True}))
    for status, number in ((BlkifStatus.ERROR, errno.EIO), (-7, errno.EIO), (BlkifStatus.OKAY, None)):
        bio = world.submit(BlkifOp.FLUSH_DISKCACHE)
        world.answer(*sent(world), status)
        assert world.engine.collect() == [bio]
        assert error_of(bio) == number
        assert getattr(world.features, offered)


@pytest.mark.parametrize("offered", ["flush_cache", "barrier"])
def test_a_flush_that_is_refused_is_a_success_and_the_last(make: Callable[..., Any], offered: str) -> None:
    world = make(features=Features(**{"flush_cache": False, offered: True}))
    first = world.submit(BlkifOp.FLUSH_DISKCACHE)
    world.answer(*sent(world), BlkifStatus.EOPNOTSUPP)
    assert world.engine.collect() == [first]
    assert first.error is None
    assert not getattr(world.features, offered)
    second = world.submit(BlkifOp.FLUSH_DISKCACHE)
    assert sent(world) == []
    assert world.engine.collect() == [second]


def test_a_flush_that_is_refused_is_sent_as_a_barrier_if_there_are_such(make: Callable[..., Any]) -> None:
    world = make(features=Features(**ALL))
    bio = world.submit(BlkifOp.FLUSH_DISKCACHE)
    world.answer(*sent(world), BlkifStatus.EOPNOTSUPP)
    assert world.engine.collect() == []
    assert world.engine.busy
    assert world.engine.must_look_again(), "nobody may sleep on it"
    (request,) = sent(world)
    assert (request.operation, request.nr_segments) == (BlkifOp.WRITE_BARRIER, 0)
    world.answer(request, BlkifStatus.EOPNOTSUPP)
    assert world.engine.collect() == [bio]
    assert bio.error is None
    assert repr(world.features) == "<Features discard discard_secure>"


def test_what_one_ring_learns_holds_for_all_of_the_disk(make: Callable[..., Any]) -> None:
    features = Features(**ALL)
    one, other = make(features=features), make(features=features)
    one.submit(BlkifOp.DISCARD, 0, nr_bytes=512)
    one.answer(*sent(one), BlkifStatus.EOPNOTSUPP)
    one.engine.collect()
    bio = other.submit(BlkifOp.DISCARD, 0, nr_bytes=512)
    assert sent(other) == []
    assert other.engine.collect() == [bio]


def test_regression_nobody_sleeps_while_the_rest_of_a_bio_has_room(make: Callable[..., Any]) -> None:
    world = make()
    bio = world.submit(BlkifOp.READ, 0, bytearray(40 * 11 * PAGE_SIZE))
    for request in sent(world):
        world.answer(request)
    assert world.engine.collect() == []
    assert world.engine.must_look_again()
    for request in sent(world):
        world.answer(request)
    assert world.engine.collect() == [bio]
    assert not world.engine.must_look_again()
