"""The frontend's pool: Linux's order, its count of persistent grants, all or nothing, teardown; and against a model."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from xenblk.abi import Domid
from xenblk.errors import WouldBlockError
from xenblk.grants import GrantPool

OTHER = Domid(3)


def make(world: Any, size: int = 4) -> GrantPool:
    return GrantPool(world.table, world, world.backend, size)


def test_pages_are_zero_and_granted_read_write_on_first_use(world: Any) -> None:
    world.memory[4096:] = b"\xaa" * (len(world.memory) - 4096)
    free = world.table.free_count
    pool = make(world)
    assert world.table.free_count == free
    (entry,) = pool.take(1)
    assert bytes(entry.page.view) == bytes(4096)
    assert world.flags(entry.gref) == 1, "permit_access, not read-only"
    assert world.table.free_count == free - 1
    assert not pool.put_back(entry)
    assert entry.gref is None
    assert world.table.free_count == free


def test_kept_pages_go_to_the_head_and_ended_ones_to_the_tail(world: Any) -> None:
    pool, mapper = make(world), world.mapper()
    first, second, third = pool.take(3)
    refs = [first.gref, third.gref]
    mappings = mapper.map(world.domain, refs)
    assert pool.put_back(first)
    assert not pool.put_back(second)
    assert pool.put_back(third)
    assert pool.persistent_gnts_c == 2
    pool._check()
    taken = pool.take(4)
    assert taken[:2] == [first, third], "as they came back, with the references they had"
    assert [entry.gref for entry in taken[:2]] == refs
    assert taken[3] is second, "what was ended comes last"
    assert pool.persistent_gnts_c == 0
    mapper.unmap(mappings)


def test_the_working_set_is_the_most_in_use_at_once(world: Any) -> None:
    """With a backend that keeps all, a pool of 20 used 3 at a time grants 3 pages in total."""
    pool, mapper = make(world, 20), world.mapper()
    seen: dict[int, Any] = {}
    for _ in range(50):
        entries = pool.take(3)
        for entry in entries:
            if entry.gref not in seen:
                seen[entry.gref] = mapper.map(world.domain, [entry.gref])
        assert all(pool.put_back(entry) for entry in entries)
    assert len(seen) == 3


def exhaust(table: Any, left: int) -> list[Any]:
    return table.grant(OTHER, [0] * (table.free_count - left))  # type: ignore[no-any-return]


def test_all_or_nothing(world: Any) -> None:
    pool = make(world, 8)
    held = exhaust(world.table, left=3)
    with pytest.raises(WouldBlockError, match="4 grant references are needed"):
        pool.take(4)
    assert world.table.free_count == 3
    with pytest.raises(WouldBlockError, match="9 pool pages are needed, 8 are free"):
        pool.take(9)
    pool._check()
    assert world.table.end_access(held.pop())
    entries = pool.take(4)
    assert len({entry.gref for entry in entries}) == 4
    assert world.table.free_count == 0
    pool._check()


def test_kept_pages_need_no_reference(world: Any) -> None:
    pool, mapper = make(world), world.mapper()
    entries = pool.take(2)
    mapper.map(world.domain, [entry.gref for entry in entries])
    assert all(pool.put_back(entry) for entry in entries)
    exhaust(world.table, left=1)
    with pytest.raises(WouldBlockError, match="2 grant references"):
        pool.take(4)
    assert pool.persistent_gnts_c == 2, "nothing is lost"
    assert pool.take(3)[:2] == entries
    assert pool.persistent_gnts_c == 0


def test_trim_follows_the_backends_purge(world: Any) -> None:
    pool, mapper = make(world, 5), world.mapper()
    entries = pool.take(4)
    mappings = mapper.map(world.domain, [entry.gref for entry in entries])
    assert all(pool.put_back(entry) for entry in entries)
    mapper.unmap([mappings[1], mappings[2]])
    free = world.table.free_count
    assert pool.trim() == 2
    assert pool.persistent_gnts_c == 2
    assert world.table.free_count == free + 2
    pool._check()
    assert pool.take(2) == [entries[0], entries[3]], "the order of the others stays"
    mapper.unmap([mappings[0], mappings[3]])
    assert pool.trim() == 0


def test_close_keeps_what_is_mapped(make_world: Callable[..., Any]) -> None:
    world = make_world()
    mapper = world.mapper()
    free, frames = world.table.free_count, world.free_frames
    pool = make(world, 6)
    idle, in_flight, ended, _ = pool.take(4)
    mappings = mapper.map(world.domain, [idle.gref, in_flight.gref])
    pool.put_back(idle)
    pool.put_back(ended)
    left = pool.close()
    assert set(map(id, left)) == {id(idle), id(in_flight)}
    assert world.free_frames == frames - 2, "a page that is mapped is not given back"
    assert world.table.free_count == free - 2
    mappings[0].page[:4] = b"safe"
    assert bytes(idle.page.view[:4]) == b"safe"
    mapper.unmap(mappings)
    assert world.table.end_access(idle.gref)
    world.check()


class PoolMachine(RuleBasedStateMachine):
    """The pool as a list of [frame, reference or None], with a backend that maps and unmaps as it likes."""

    world_class: type[Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.world_class(nr_frames=16, nr_entries=16)
        self.mapper = self.world.mapper()
        self.pool = make(self.world, 10)
        self.free = [[entry.page.frame, None] for entry in self.pool._free]
        self.taken: list[Any] = []
        self.mapped: dict[int, Any] = {}

    @rule(nr_pages=st.integers(0, 12))
    def take(self, nr_pages: int) -> None:
        asked = self.free[:nr_pages]
        new = sum(gref is None for _, gref in asked)
        asked[: len(asked) - new] = reversed(asked[: len(asked) - new])
        if nr_pages > len(self.free) or new > self.world.table.free_count:
            with pytest.raises(WouldBlockError):
                self.pool.take(nr_pages)
            return
        entries = self.pool.take(nr_pages)
        assert [entry.page.frame for entry in entries] == [frame for frame, _ in asked]
        assert all(gref in (None, entry.gref) for entry, (_, gref) in zip(entries, asked, strict=True))
        del self.free[:nr_pages]
        self.taken += entries

    @precondition(lambda self: self.taken)
    @rule(number=st.integers(0, 100))
    def put_back(self, number: int) -> None:
        entry = self.taken.pop(number % len(self.taken))
        gref = entry.gref
        assert self.pool.put_back(entry) == (gref in self.mapped)
        if gref in self.mapped:
            self.free.insert(0, [entry.page.frame, gref])
        else:
            self.free.append([entry.page.frame, None])

    @precondition(lambda self: self.taken)
    @rule(number=st.integers(0, 100))
    def map(self, number: int) -> None:
        gref = self.taken[number % len(self.taken)].gref
        if gref not in self.mapped:
            self.mapped[gref] = self.mapper.map(self.world.domain, [gref])
            assert self.mapped[gref][0].page is not None

    @precondition(lambda self: self.mapped)
    @rule(number=st.integers(0, 100))
    def unmap(self, number: int) -> None:
        self.mapper.unmap(self.mapped.pop(sorted(self.mapped)[number % len(self.mapped)]))

    @rule()
    def trim(self) -> None:
        ended = [entry for entry in self.free if entry[1] is not None and entry[1] not in self.mapped]
        assert self.pool.trim() == len(ended)
        self.free = [entry for entry in self.free if entry not in ended] + [[frame, None] for frame, _ in ended]

    @invariant()
    def agrees(self) -> None:
        self.pool._check()
        self.world.check()
        assert [[entry.page.frame, entry.gref] for entry in self.pool._free] == self.free
        assert self.pool.persistent_gnts_c == sum(gref is not None for _, gref in self.free)

    def teardown(self) -> None:
        left = self.pool.close()
        assert {entry.gref for entry in left} == set(self.mapped)
        assert self.world.table.free_count == 8 - len(left)
        self.world.close()


def test_pool_agrees_with_a_model(world_class: type[Any]) -> None:
    PoolMachine.world_class = world_class
    run_state_machine_as_test(PoolMachine, settings=settings(max_examples=60, stateful_step_count=30))
