"""The slot table: lowest first, cancelling, what a scan frees, tells and costs."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from xenblk._native import ffi, lib
from xenblk.errors import UsageError
from xenblk.grants.slots import Slots


def full(nr_slots: int) -> Slots:
    slots = Slots(nr_slots)
    assert [slots.allocate() for _ in range(nr_slots)] == list(range(nr_slots))
    return slots


def steps_of(slots: Slots, done: list[int]) -> tuple[list[tuple[int, int]], int]:
    before = slots.scan_steps
    runs = slots.scan(done)
    slots._check()
    return runs, slots.scan_steps - before


def test_the_lowest_free_slot_comes_first() -> None:
    slots = full(8)
    assert slots.scan([6, 2, 1]) == [(1, 2), (6, 1)]
    assert [slots.allocate() for _ in range(4)] == [1, 2, 6, None]
    slots._check()


def test_a_scan_costs_the_live_slots_and_the_clusters() -> None:
    slots = Slots(65536)
    assert steps_of(slots, []) == ([], 1)
    for _ in range(10):
        slots.allocate()
    assert steps_of(slots, []) == ([], 11)
    assert steps_of(slots, [2, 3, 7]) == ([(2, 2), (7, 1)], 11)
    assert steps_of(slots, [9]) == ([(9, 1)], 10), "live 0 1 4 5 6 8 9, free from 2, 7 and 10 on"
    assert steps_of(slots, []) == ([], 9), "9 went to the cluster behind it"


@pytest.mark.parametrize(
    ("done", "runs", "clusters"),
    [
        ([0], [(0, 1)], [0, 3, 6]),
        ([2], [(2, 1)], [2, 6]),
        ([5], [(5, 1)], [3]),
        ([2, 5], [(2, 4)], [2]),
        ([0, 2, 5, 8], [(0, 1), (2, 7)], [0, 2]),
        ([8], [(8, 1)], [3, 6]),
        ([9], [(9, 1)], [3, 6, 9]),
        ([0, 1, 2, 5, 8, 9], [(0, 10)], [0]),
    ],
)
def test_a_scan_joins_what_it_frees_with_both_sides(
    done: list[int], runs: list[tuple[int, int]], clusters: list[int]
) -> None:
    """Slots 3, 4, 6 and 7 of ten are free already: a run may span them, and does not begin or end with them."""
    slots = full(10)
    slots.scan([3, 4, 6, 7])
    assert slots.scan(done) == runs
    slots._check()
    assert steps_of(slots, []) == ([], slots.nr_live + len(clusters))
    assert slots.allocate() == clusters[0]


def test_the_newest_allocations_can_be_cancelled_in_turn() -> None:
    slots = full(6)
    slots.scan([1, 3, 4])
    assert [slots.allocate() for _ in range(3)] == [1, 3, 4]
    for slot in (4, 3):
        with pytest.raises(AssertionError, match="slot 1 is not the newest"):
            slots.cancel(1)
        slots.cancel(slot)
        slots._check()
    slots.cancel(1)
    assert steps_of(slots, []) == ([], 5), "as before: 0, 2 and 5 are live"
    assert slots.allocate() == 1


@pytest.mark.parametrize("forget", [lambda slots: slots.scan([]), lambda slots: slots.allocate_run(2)])
def test_an_older_allocation_cannot_be_cancelled(forget: Callable[[Slots], Any]) -> None:
    slots = Slots(8)
    slots.allocate()
    forget(slots)
    with pytest.raises(AssertionError, match="slot 0 is not the newest"):
        slots.cancel(0)


def test_a_run_takes_the_lowest_cluster_that_is_long_enough() -> None:
    slots = full(12)
    slots.scan([1, 3, 4, 6, 7, 8, 11])
    assert slots.allocate_run(4) is None
    assert slots.allocate_run(3) == 6
    assert slots.allocate_run(1) == 1
    assert slots.allocate_run(2) == 3
    assert slots.allocate_run(13) is None
    assert slots.allocate_run(1) == 11
    assert slots.allocate_run(1) is slots.allocate() is None
    slots._check()


def test_one_slot() -> None:
    slots = Slots(1)
    assert (slots.allocate(), slots.allocate(), slots.allocate_run(1)) == (0, None, None)
    slots.cancel(0)
    assert (slots.allocate_run(1), slots.allocate()) == (0, None)
    assert steps_of(slots, [0]) == ([(0, 1)], 1)
    assert steps_of(slots, []) == ([], 1)


def test_the_first_and_the_last_slot() -> None:
    slots = full(5)
    assert steps_of(slots, [0, 4]) == ([(0, 1), (4, 1)], 5)
    assert [slots.allocate(), slots.allocate(), slots.allocate()] == [0, 4, None]
    slots.cancel(4)
    slots.cancel(0)
    assert steps_of(slots, [1, 2, 3]) == ([(1, 3)], 5)
    assert slots.allocate_run(5) == 0


def test_a_table_has_slots() -> None:
    for nr_slots in (0, -1, 0xFFFFFFFF):
        with pytest.raises(UsageError, match="1 to 4294967294 slots"):
            Slots(nr_slots)


def test_only_a_live_slot_is_freed() -> None:
    slots = full(4)
    slots.free([2])
    with pytest.raises(AssertionError, match="only a live slot"):
        slots.free([2])
    with pytest.raises(AssertionError, match="and once"):
        slots.scan([0, 0])
    for beyond in (4, -1):
        with pytest.raises(IndexError):
            slots.scan([beyond])
    assert [slots.is_live(slot) for slot in range(-1, 5)] == [False, False, True, False, True, False]
    slots._check()


def test_a_scan_by_callback_asks_of_each_live_slot() -> None:
    slots = full(6)
    slots.scan([2])
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    @ffi.callback("int(void *, uint32_t)")
    def done(_context: Any, slot: int) -> int:
        asked.append(slot)
        return slot in {1, 3, 5}

    @ffi.callback("void(void *, uint32_t, uint32_t)")
    def run(_context: Any, start: int, length: int) -> None:
        told.append((start, length))

    assert lib.xb_slots_scan(slots._native, done, run, ffi.NULL) == 3
    assert (asked, told) == ([0, 1, 3, 4, 5], [(1, 3), (5, 1)])
    assert lib.xb_slots_scan(slots._native, done, ffi.NULL, ffi.NULL) == 0
    slots._check()


class SlotsMachine(RuleBasedStateMachine):
    """The table against a list of booleans that is searched from the start each time."""

    @initialize(nr_slots=st.integers(1, 40))
    def start(self, nr_slots: int) -> None:
        self.slots = Slots(nr_slots)
        self.live = [False] * nr_slots
        self.newest: list[int] = []

    def lowest(self, length: int) -> int | None:
        starts = range(len(self.live) - length + 1)
        return next((at for at in starts if not any(self.live[at : at + length])), None)

    def clusters(self) -> Iterator[list[int]]:
        for live, group in groupby(range(len(self.live)), self.live.__getitem__):
            if not live:
                yield list(group)

    @rule(number=st.integers(1, 8))
    def allocate(self, number: int) -> None:
        for _ in range(number):
            slot = self.lowest(1)
            assert self.slots.allocate() == slot
            if slot is not None:
                self.live[slot] = True
                self.newest.append(slot)

    @rule(length=st.integers(1, 41))
    def allocate_run(self, length: int) -> None:
        first = self.lowest(length)
        assert self.slots.allocate_run(length) == first
        if first is not None:
            self.live[first : first + length] = [True] * length
            self.newest.clear()

    @precondition(lambda self: self.newest)
    @rule(number=st.integers(1, 3))
    def cancel(self, number: int) -> None:
        for _ in range(min(number, len(self.newest))):
            slot = self.newest.pop()
            self.slots.cancel(slot)
            self.live[slot] = False

    @rule(chosen=st.sets(st.integers(0, 39)))
    def scan(self, chosen: set[int]) -> None:
        done = {slot for slot in chosen if slot < len(self.live) and self.live[slot]}
        steps = sum(self.live) + sum(1 for _ in self.clusters())
        before = self.slots.scan_steps
        runs = self.slots.scan(sorted(done))
        assert self.slots.scan_steps - before == steps
        self.newest.clear()
        for slot in done:
            self.live[slot] = False
        freed = [[slot for slot in cluster if slot in done] for cluster in self.clusters()]
        assert runs == [(slots[0], slots[-1] + 1 - slots[0]) for slots in freed if slots]

    @invariant()
    def is_sound(self) -> None:
        if not hasattr(self, "slots"):
            return
        self.slots._check()
        assert self.slots.nr_live == sum(self.live)
        assert [self.slots.is_live(slot) for slot in range(len(self.live))] == self.live


def test_against_a_model() -> None:
    run_state_machine_as_test(SlotsMachine)
