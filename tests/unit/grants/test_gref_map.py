"""The gref map agrees with dictionaries, whatever the references, the secret and the order of calls."""

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
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

U32_MAX = 0xFFFFFFFF
ALWAYS = 0xFFFFFFFFFFFFFFFF
MISS, HIT, ACTIVE = lib.XB_GREF_MISS, lib.XB_GREF_HIT, lib.XB_GREF_ACTIVE
FULL, ADDED, PRESENT = lib.XB_GREF_FULL, lib.XB_GREF_ADDED, lib.XB_GREF_PRESENT

GREFS = [*range(8), *(n << 28 for n in range(1, 8)), *range(U32_MAX - 4, U32_MAX + 1)]
any_gref = st.sampled_from(GREFS)
any_secret = st.one_of(st.sampled_from([0, 1, 1 << 63, ALWAYS]), st.integers(0, ALWAYS))
any_pick = st.integers(0, 1000)


class GrefMap:
    """The C functions on memory of exactly the size they ask for; entries by their number."""

    def __init__(self, max_entries: int, secret: int = 1) -> None:
        self._map = ffi.new("struct xb_gref_map *")
        self._memory = ffi.new("uint64_t[]", lib.xb_gref_map_bytes(max_entries) // 8)
        self._max_entries = max_entries
        lib.xb_gref_map_init(self._map, self._memory, max_entries, secret)

    def _number(self, entry: Any) -> int:
        number: int = entry - self._map.entries
        assert 0 <= number < self._max_entries
        return number

    def entry(self, number: int) -> Any:
        return self._map.entries + number

    def find(self, gref: int) -> int | None:
        entry = lib.xb_gref_map_find(self._map, gref)
        return None if entry == ffi.NULL else self._number(entry)

    def take(self, gref: int) -> tuple[int, int | None]:
        out = ffi.new("struct xb_gref_entry **")
        answer = lib.xb_gref_map_take(self._map, gref, out)
        return answer, self._number(out[0]) if answer == HIT else None

    def add(self, gref: int, slot: int, handle: int) -> tuple[int, int | None]:
        out = ffi.new("struct xb_gref_entry **")
        answer = lib.xb_gref_map_add(self._map, gref, slot, handle, out)
        return answer, self._number(out[0]) if answer == ADDED else None

    def put(self, number: int, now_ns: int) -> None:
        lib.xb_gref_map_put(self.entry(number), now_ns)

    def idle(self, until_ns: int = ALWAYS) -> list[int]:
        out = ffi.new("struct xb_gref_entry *[]", self._max_entries)
        return [self._number(out[i]) for i in range(lib.xb_gref_map_idle(self._map, until_ns, out))]

    def reap(self, number: int) -> bool:
        return bool(lib.xb_gref_map_reap(self.entry(number)))

    def release(self, number: int) -> None:
        lib.xb_gref_map_release(self._map, self.entry(number))

    def set_limit(self, limit: int) -> None:
        lib.xb_gref_map_set_limit(self._map, limit)

    def __len__(self) -> int:
        return lib.xb_gref_map_count(self._map)

    def check(self) -> None:
        lib.xb_gref_map_check(self._map)


@dataclasses.dataclass
class Kept:
    """What the model knows of an entry."""

    number: int
    gref: int
    slot: int
    active: bool = True
    replaced: bool = False
    last_used_ns: int = 0


class GrefMapMachine(RuleBasedStateMachine):
    """`live` by reference; `dying` are reaped and not released, and in the map until a live one takes their place."""

    @initialize(max_entries=st.integers(0, 12), secret=any_secret)
    def start(self, max_entries: int, secret: int) -> None:
        self.map = GrefMap(max_entries, secret)
        self.max_entries = self.limit = max_entries
        self.live: dict[int, Kept] = {}
        self.dying: list[Kept] = []
        self.now_ns = self.slots = 0

    def in_map(self) -> set[int]:
        return {*self.live, *(kept.gref for kept in self.dying if not kept.replaced)}

    @rule(gref=any_gref)
    def take(self, gref: int) -> None:
        answer, number = self.map.take(gref)
        kept = self.live.get(gref)
        if kept is None:
            assert answer == MISS
        elif kept.active:
            assert answer == ACTIVE
        else:
            assert (answer, number) == (HIT, kept.number)
            kept.active = True

    @rule(gref=any_gref)
    def add(self, gref: int) -> None:
        self.slots += 1
        answer, number = self.map.add(gref, self.slots, self.slots ^ U32_MAX)
        if gref in self.live:
            assert answer == PRESENT
        elif len(self.in_map() - {gref}) >= self.limit or len(self.live) + len(self.dying) == self.max_entries:
            assert answer == FULL
        else:
            assert answer == ADDED
            assert number is not None
            assert number not in {kept.number for kept in (*self.live.values(), *self.dying)}
            for kept in self.dying:
                kept.replaced |= kept.gref == gref
            self.live[gref] = Kept(number, gref, self.slots)

    @precondition(lambda self: any(kept.active for kept in self.live.values()))
    @rule(pick=any_pick, later_ns=st.sampled_from([0, 1, 1 << 33]))
    def put(self, pick: int, later_ns: int) -> None:
        active = [kept for kept in self.live.values() if kept.active]
        kept = active[pick % len(active)]
        self.now_ns += later_ns
        self.map.put(kept.number, self.now_ns)
        kept.active, kept.last_used_ns = False, self.now_ns

    @rule(ago_ns=st.sampled_from([-1, 0, 1, 1 << 33]))
    def idle(self, ago_ns: int) -> None:
        until_ns = max(0, self.now_ns - ago_ns)
        idle = [kept for _, kept in sorted(self.live.items()) if not kept.active and kept.last_used_ns <= until_ns]
        assert self.map.idle(until_ns) == [kept.number for kept in idle]

    @precondition(lambda self: self.live)
    @rule(pick=any_pick)
    def reap(self, pick: int) -> None:
        kept = list(self.live.values())[pick % len(self.live)]
        assert self.map.reap(kept.number) is not kept.active
        if not kept.active:
            self.dying.append(self.live.pop(kept.gref))

    @precondition(lambda self: self.dying)
    @rule(pick=any_pick)
    def reap_again(self, pick: int) -> None:
        assert not self.map.reap(self.dying[pick % len(self.dying)].number)

    @precondition(lambda self: self.dying)
    @rule(pick=any_pick)
    def release(self, pick: int) -> None:
        self.map.release(self.dying.pop(pick % len(self.dying)).number)

    @rule(limit=st.integers(0, 12))
    def set_limit(self, limit: int) -> None:
        self.limit = min(limit, self.max_entries)
        self.map.set_limit(self.limit)

    @invariant()
    def agrees(self) -> None:
        self.map.check()
        assert len(self.map) == len(self.in_map())
        for kept in (*self.live.values(), *self.dying):
            entry = self.map.entry(kept.number)
            assert (entry.gref, entry.slot, entry.handle) == (kept.gref, kept.slot, kept.slot ^ U32_MAX)
        for gref in GREFS:
            assert (self.map.find(gref) is not None) is (gref in self.in_map())
            if gref in self.live:
                assert self.map.find(gref) == self.live[gref].number


def test_map_agrees_with_a_model() -> None:
    run_state_machine_as_test(
        GrefMapMachine, settings=settings(max_examples=100, stateful_step_count=50, deadline=None)
    )


@settings(max_examples=60, deadline=None)
@given(grefs=st.sets(st.integers(0, U32_MAX), max_size=300), secret=any_secret)
def test_any_references_come_out_in_order(grefs: set[int], secret: int) -> None:
    made = GrefMap(len(grefs), secret)
    for slot, gref in enumerate(grefs):
        answer, number = made.add(gref, slot, 0)
        assert answer == ADDED
        assert number is not None
        made.put(number, slot)
    assert [made.entry(number).gref for number in made.idle()] == sorted(grefs)
    for gref in grefs:
        assert made.take(gref)[0] == HIT
    assert made.idle() == []
    made.check()


@pytest.mark.parametrize("stride", [1, 2, 4096, 1 << 16, 1 << 20, 3 << 20])
def test_references_of_any_stride_stay_near_their_home(stride: int) -> None:
    """A frontend that does not know the secret cannot pile its references up: probes are few with each of many."""
    for secret in random_secrets():
        made = GrefMap(1024, secret)
        for n in range(1024):
            assert made.add(n * stride, n, 0)[0] == ADDED
        assert probes(made) / 1024 < 4, f"secret {secret:#x}"


def random_secrets() -> list[int]:
    """The same ones in each run; a hash of one product has bad ones among so many."""
    dice = random.Random(20121024)
    return [dice.getrandbits(64) for _ in range(60)]


def probes(made: GrefMap) -> int:
    """Cells that finding each entry once looks at, at most: full ones stand in runs, which no search leaves."""
    cells = [made._map.cells[at] != 0 for at in range(made._map.cell_mask + 1)]
    first_empty = cells.index(False)
    total = run = 0
    for full in cells[first_empty + 1 :] + cells[: first_empty + 1]:
        run = run + 1 if full else 0
        total += run
    return total


def test_layout() -> None:
    assert ffi.sizeof("struct xb_gref_entry") == 32
    assert [lib.xb_gref_map_bytes(n) for n in (0, 1, 1056, 2048)] == [
        16,
        48 + 16,
        1056 * 48 + 4096 * 8,
        2048 * 48 + 4096 * 8,
    ]


@pytest.mark.parametrize("secret", random_secrets()[:4])
def test_cells_grow_with_the_entries_under_a_reaper(secret: int) -> None:
    """Entries that die, are replaced and come back lie across each doubling; each is found where it belongs."""
    dice, made, held = random.Random(secret), GrefMap(3000, secret), {}
    first_mask = made._map.cell_mask
    for gref in dice.sample(range(1 << 32), 2900):
        answer, held[gref] = made.add(gref, 0, 0)
        assert answer == ADDED
        if dice.random() < 0.2:
            victim = dice.choice(list(held))
            made.put(dying := held.pop(victim), 0)
            assert made.reap(dying)
            if dice.random() < 0.5:
                answer, held[victim] = made.add(victim, 0, 0)
                assert answer == ADDED
            made.release(dying)
    made.check()
    assert made._map.cell_mask > 4 * first_mask
    assert {gref: made.find(gref) for gref in held} == held
