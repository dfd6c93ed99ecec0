"""Slots of the mapping arena: lowest first, runs, and addresses that stay."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.abi import PAGE_SIZE
from xenblk.errors import GrantError
from xenblk.grants import GrantStatus
from xenblk.grants.arena import Arena


def test_lowest_free_slot_first() -> None:
    arena = Arena(8)
    assert [arena.allocate() for _ in range(4)] == [0, 1, 2, 3]
    arena.free(2)
    arena.free(0)
    assert [arena.allocate() for _ in range(3)] == [0, 2, 4]
    arena.close()


def test_a_run_fits_between_used_slots_or_after_them() -> None:
    arena = Arena(8)
    for _ in range(6):
        arena.allocate()
    for slot in (1, 2, 4):
        arena.free(slot)
    assert arena.allocate_run(2) == 1
    assert arena.allocate_run(2) == 6
    assert arena.allocate() == 4
    with pytest.raises(GrantError, match="1 pages in a row are needed") as raised:
        arena.allocate()
    assert raised.value.status == GrantStatus.NO_SPACE
    arena.close()


def test_a_batch_is_the_lowest_slots_or_none() -> None:
    arena = Arena(6)
    assert arena.allocate_batch(5) == [0, 1, 2, 3, 4]
    arena.free(3, 1)
    with pytest.raises(GrantError, match="4 pages are needed of the mapping arena, which has 6") as raised:
        arena.allocate_batch(4)
    assert raised.value.status == GrantStatus.NO_SPACE
    arena._check()
    assert arena.allocate_batch(0) == []
    assert arena.allocate_batch(3) == [1, 3, 5]
    arena.close()


def test_addresses_are_pages_in_a_row() -> None:
    arena = Arena(4)
    assert arena.address(0) % PAGE_SIZE == 0
    assert [arena.address(slot) - arena.address(0) for slot in range(4)] == [0, 4096, 8192, 12288]
    assert arena.page(3).nbytes == PAGE_SIZE
    assert arena.view(1, 3).nbytes == 3 * PAGE_SIZE
    address = arena.address(2)
    assert ctypes.addressof(ctypes.c_char.from_buffer(arena.page(2))) == address
    arena.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_no_slot_is_handed_out_twice(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(16)
    used: list[int] = []
    for free, number in steps:
        if free and used:
            arena.free(used.pop(number % len(used)))
        else:
            try:
                first = arena.allocate_run(number % 3 + 1)
            except GrantError:
                continue
            run = range(first, first + number % 3 + 1)
            assert not set(run) & set(used)
            assert run[-1] < 16
            used.extend(run)
        arena._check()
    arena.close()
