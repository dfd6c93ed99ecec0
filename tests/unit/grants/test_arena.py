"""Slots of the mapping arena: lowest first, runs, and addresses that stay."""

import ctypes
import itertools
from pathlib import Path

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


def test_the_kernel_keeps_two_arenas_apart() -> None:
    """As one mapping, they would be cut twice for each page at the beginning of the second."""
    arenas = [Arena(8) for _ in range(3)]
    begins = {int(line.split("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines()}
    assert begins >= {arena.address(0) for arena in arenas}
    for arena in arenas:
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


def test_nobody_else_gets_into_a_hole() -> None:
    """A driver's mmap that fails has torn down what was there. Linux places others' mappings somewhere else."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    arena = Arena(64)
    first, last = arena.address(0), arena.address(63)
    assert libc.munmap(arena.address(8), 32 * PAGE_SIZE) == 0
    private_anonymous = 0x22
    others = [libc.mmap(None, PAGE_SIZE * size, 0, private_anonymous, -1, 0) for size in (1, 2, 32) for _ in range(400)]
    assert not [address for address in others if first <= address <= last]
    for address, size in zip(others, [1] * 400 + [2] * 400 + [32] * 400, strict=True):
        assert libc.munmap(address, PAGE_SIZE * size) == 0
    arena.close()


def test_arenas_do_not_meet() -> None:
    arenas = [Arena(16) for _ in range(20)]
    starts = sorted(arena.address(0) for arena in arenas)
    assert all(after - before >= 16 * PAGE_SIZE for before, after in itertools.pairwise(starts))
    for arena in arenas:
        arena.close()
