"""The backend's cache against what Linux does: hits, misses, duplicates, overflow, purge; and against a model."""

import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from xenblk.errors import GrantError
from xenblk.grants import GrantStatus, PersistentGrants

GRANT_COUNTERS = ("map_ops", "map_pages", "unmap_ops", "unmap_pages")
CACHE_COUNTERS = ("hits", "misses", "overflow", "purged", "current", "peak", "in_use")
UNGRANTED = 5000


def new_counters() -> Any:
    return types.SimpleNamespace(**dict.fromkeys([*GRANT_COUNTERS, *(f"persistent_{n}" for n in CACHE_COUNTERS)], 0))


def check(cache: PersistentGrants, counters: Any, mapper: Any) -> None:
    cache._check()
    assert counters.map_pages == counters.unmap_pages + mapper.mapped_pages


def make(world: Any, **options: Any) -> tuple[PersistentGrants, Any, Any]:
    mapper, counters = world.mapper(arena_pages=4096, nr_entries=4096), new_counters()
    options.setdefault("persistent", True)
    return PersistentGrants(mapper, world.domain, counters=counters, **options), counters, mapper


@pytest.fixture
def big(make_world: Callable[..., Any]) -> Any:
    """A domain with room for 1056 grants and more."""
    return make_world(nr_frames=2048, nr_entries=2048)


def fill(cache: PersistentGrants, refs: list[int], now: float) -> None:
    """Use each reference once, 11 at a time."""
    for start in range(0, len(refs), 11):
        cache.release(cache.acquire(refs[start : start + 11], device_writes=False, now=0.0), now)


def test_a_page_is_mapped_once(world: Any) -> None:
    cache, counters, mapper = make(world)
    refs = [world.grant(frame) for frame in range(1, 12)]
    world.page(4)[:4] = b"data"
    for turn in range(3):
        grants = cache.acquire(refs, device_writes=True, now=0.0)
        assert bytes(grants[3].page[:4]) == b"data"
        assert counters.persistent_in_use == 11
        cache.release(grants, float(turn))
    assert (counters.map_ops, counters.map_pages, counters.unmap_pages) == (1, 11, 0)
    assert (counters.persistent_misses, counters.persistent_hits) == (11, 22)
    assert (counters.persistent_current, counters.persistent_peak, counters.persistent_in_use) == (11, 11, 0)
    check(cache, counters, mapper)
    cache.close()
    assert (counters.unmap_ops, counters.unmap_pages, counters.persistent_current) == (1, 11, 0)
    assert world.pins() == {}


@pytest.mark.parametrize(("nr_pages", "map_ops"), [(1, 1), (11, 1), (12, 2), (32, 3), (256, 24)])
def test_operations_without_persistence(big: Any, nr_pages: int, map_ops: int) -> None:
    cache, counters, mapper = make(big, persistent=False)
    refs = [big.grant(frame) for frame in range(1, nr_pages + 1)]
    cache.release(cache.acquire(refs, device_writes=False, now=0.0), 0.0)
    assert (counters.map_ops, counters.map_pages) == (map_ops, nr_pages)
    assert (counters.unmap_ops, counters.unmap_pages) == (1, nr_pages)
    assert counters.persistent_misses == counters.persistent_overflow == counters.persistent_current == 0
    check(cache, counters, mapper)


@pytest.mark.parametrize(
    ("persistent", "device_writes", "pins"),
    [(True, True, (0, 1)), (True, False, (0, 1)), (False, True, (1, 0)), (False, False, (0, 1))],
)
def test_what_is_mapped_read_only(world: Any, persistent: bool, device_writes: bool, pins: tuple[int, int]) -> None:
    cache, _, _ = make(world, persistent=persistent)
    ref = world.grant()
    grants = cache.acquire([ref], device_writes=device_writes, now=0.0)
    assert world.pins() == {ref: pins}
    cache.release(grants, 0.0)
    cache.close()


@pytest.mark.parametrize("known", [False, True], ids=["cold", "warm"])
def test_a_reference_twice_in_a_request(world: Any, known: bool) -> None:
    cache, counters, mapper = make(world)
    ref = world.grant()
    if known:
        fill(cache, [ref], 0.0)
    maps = counters.map_pages
    grants = cache.acquire([ref, ref, ref], device_writes=False, now=0.0)
    assert counters.map_pages - maps == (2 if known else 3)
    assert counters.persistent_current == counters.persistent_in_use == 1
    assert world.pins() == {ref: (0, 3)}
    grants[0].page[:1] = b"x"
    assert bytes(grants[2].page[:1]) == b"x"
    cache.release(grants, 1.0)
    assert (counters.unmap_ops, counters.unmap_pages) == (1, 2)
    assert world.pins() == {ref: (0, 1)}
    check(cache, counters, mapper)


def test_a_reference_in_two_requests(world: Any) -> None:
    cache, counters, mapper = make(world)
    ref = world.grant()
    first = cache.acquire([ref], device_writes=False, now=0.0)
    second = cache.acquire([ref], device_writes=False, now=0.0)
    cache.release(first, 1.0)
    third = cache.acquire([ref], device_writes=False, now=0.0)
    cache.release(second, 2.0)
    cache.release(third, 3.0)
    assert (counters.map_pages, counters.unmap_pages, counters.persistent_hits) == (2, 1, 1)
    assert counters.persistent_overflow == 0
    check(cache, counters, mapper)


def test_beyond_the_limit_a_request_mixes_both_kinds(world: Any) -> None:
    cache, counters, mapper = make(world, max_persistent_grants=3)
    refs = [world.grant(frame) for frame in range(1, 6)]
    grants = cache.acquire(refs, device_writes=False, now=0.0)
    assert counters.persistent_overflow == 2
    assert [grant.kept for grant in grants] == [True, True, True, False, False]
    cache.release(grants, 0.0)
    assert (counters.unmap_ops, counters.unmap_pages, counters.persistent_current) == (1, 2, 3)
    fill(cache, refs, 1.0)
    assert (counters.persistent_hits, counters.persistent_misses) == (3, 7)
    check(cache, counters, mapper)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("bad", [UNGRANTED, 600])
@pytest.mark.parametrize("at", range(11))
def test_a_bad_reference_anywhere(world: Any, persistent: bool, bad: int, at: int) -> None:
    """XSA-361, 365, 371: the request fails, nothing of it stays in use, and the cache has no node for it."""
    cache, counters, mapper = make(world, persistent=persistent)
    refs = [world.grant(frame) for frame in range(1, 12)]
    fill(cache, refs[::2], 0.0)
    kept = counters.persistent_current
    with pytest.raises(GrantError, match=f"reference {bad} ") as raised:
        cache.acquire([*refs[:at], bad, *refs[at + 1 :]], device_writes=False, now=0.0)
    assert raised.value.status < 0
    assert counters.persistent_in_use == 0
    assert mapper.mapped_pages == counters.persistent_current >= kept
    assert bad not in world.pins()
    check(cache, counters, mapper)
    fill(cache, refs, 1.0)
    cache.close()
    assert world.pins() == {}
    assert counters.persistent_in_use == counters.persistent_current == 0


@pytest.mark.parametrize("at", [0, 10, 11, 21, 22, 255])
def test_batches_after_a_failed_one_are_not_attempted(big: Any, at: int) -> None:
    cache, counters, mapper = make(big)
    refs = [big.grant(frame) for frame in range(1, 257)]
    refs[at] = 2040
    with pytest.raises(GrantError) as raised:
        cache.acquire(refs, device_writes=True, now=0.0)
    assert raised.value.status == GrantStatus.GENERAL_ERROR
    assert counters.map_ops == at // 11 + 1
    assert counters.map_pages == min((at // 11 + 1) * 11, 256) - 1
    assert counters.persistent_in_use == 0
    check(cache, counters, mapper)


def test_regression_nodes_of_a_failed_request_are_as_young_as_it(world: Any) -> None:
    """As in blkback.c, where whatever lets go of a page says when; not as old as the request before."""
    cache, counters, _ = make(world)
    fill(cache, [world.grant(1)], 1000.0)
    with pytest.raises(GrantError):
        cache.acquire([world.grant(2), UNGRANTED], device_writes=False, now=1030.0)
    assert counters.persistent_current == 2
    assert cache.purge(1060.0) == 1
    assert cache.purge(1089.0) == 0
    assert cache.purge(1090.0) == 1


def test_no_address_space_fails_the_request_alone(world: Any) -> None:
    mapper, counters = world.mapper(arena_pages=3), new_counters()
    cache = PersistentGrants(mapper, world.domain, persistent=True, counters=counters)
    refs = [world.grant(frame) for frame in range(1, 6)]
    fill(cache, refs[:2], 0.0)
    with pytest.raises(GrantError) as raised:
        cache.acquire(refs, device_writes=False, now=0.0)
    assert raised.value.status == GrantStatus.NO_SPACE
    check(cache, counters, mapper)
    fill(cache, refs[:3], 0.0)
    assert counters.persistent_current == 3


@pytest.mark.parametrize(
    ("nodes", "limit_at_purge", "overflow", "purged"),
    [
        (1056, 1056, True, 50),
        (1056, 1056, False, 0),
        (1055, 1056, False, 0),
        (1056, 1000, False, 106),
        (1056, 1000, True, 106),
        (50, 50, True, 0),
        (99, 99, True, 0),
        (100, 100, True, 5),
        (199, 199, True, 5),
        (200, 200, True, 10),
        (10, 0, False, 10),
        (20, 8, False, 12),
    ],
)
def test_how_many_a_purge_removes(big: Any, nodes: int, limit_at_purge: int, overflow: bool, purged: int) -> None:
    """Linux: nodes above the limit, and 5 of each whole hundred of it; nothing without overflow at the limit."""
    limit = max(nodes, limit_at_purge)
    cache, counters, mapper = make(big, max_persistent_grants=limit)
    refs = [big.grant(1 + i) for i in range(nodes + 1)]
    fill(cache, refs[:nodes], 0.0)
    if overflow:
        fill(cache, refs[nodes:], 0.0)
    assert counters.persistent_current == nodes
    unmap_ops = counters.unmap_ops
    cache.set_limits(limit_at_purge, 60.0)
    assert cache.purge(1.0) == purged
    assert counters.persistent_purged == purged
    assert counters.persistent_current == nodes - purged
    assert counters.unmap_ops - unmap_ops == -(-purged // 11)
    assert sorted(big.pins()) == sorted(refs[:nodes])[purged:], "the lowest references go first"
    check(cache, counters, mapper)
    if purged:
        assert cache.purge(1.0) == 0, "the flag is clear and there is room"
    cache.close()


def test_the_timeout_comes_first_and_counts(big: Any) -> None:
    cache, counters, _ = make(big, max_persistent_grants=200)
    refs = sorted(big.grant(1 + i) for i in range(201))
    fill(cache, refs[4:200], 50.0)
    fill(cache, refs[:4], 0.0)
    cache.set_limits(200, 60.0)
    fill(cache, refs[200:], 50.0)
    assert counters.persistent_overflow == 1
    assert cache.purge(60.0) == 10
    assert sorted(big.pins()) == refs[10:200], "4 for their age, then 6 by reference"


def test_the_timeout_removes_more_than_asked_for(big: Any) -> None:
    cache, counters, _ = make(big, max_persistent_grants=100)
    refs = [big.grant(1 + i) for i in range(101)]
    fill(cache, refs, 0.0)
    assert cache.purge(60.0) == 100
    assert counters.persistent_current == 0


@pytest.mark.parametrize(("timeout", "now", "purged"), [(60.0, 59.9, 0), (60.0, 60.0, 3), (0.0, 1e9, 0), (5.0, 5.0, 3)])
def test_unused_for_too_long(world: Any, timeout: float, now: float, purged: int) -> None:
    cache, _, _ = make(world, unused_timeout_s=timeout)
    fill(cache, [world.grant(frame) for frame in (1, 2, 3)], 0.0)
    assert cache.purge(now) == purged


def test_what_is_in_use_is_never_purged(big: Any) -> None:
    cache, counters, mapper = make(big, max_persistent_grants=100)
    refs = [big.grant(1 + i) for i in range(100)]
    held = cache.acquire(refs[:98], device_writes=False, now=0.0)
    fill(cache, refs[98:], 0.0)
    cache.set_limits(0, 60.0)
    assert cache.purge(1e6) == 2
    assert all(grant.page[0] == 0 for grant in held)
    cache.release(held, 1e6)
    assert cache.purge(1e6) == 98
    check(cache, counters, mapper)


def test_close_is_in_batches_and_wants_everything_back(big: Any) -> None:
    cache, counters, _ = make(big)
    held = cache.acquire([big.grant(1 + i) for i in range(100)], device_writes=False, now=0.0)
    with pytest.raises(AssertionError, match="in use"):
        cache.close()
    cache.release(held, 0.0)
    cache.close()
    assert (counters.unmap_ops, counters.unmap_pages) == (10, 100)
    assert big.pins() == {}


class CacheMachine(RuleBasedStateMachine):
    """Nodes as a dictionary of reference to [active, last use]; requests as what each of them holds."""

    world_class: type[Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.world_class(nr_frames=40, nr_entries=64)
        self.refs = [self.world.grant(1 + i) for i in range(30)]
        self.limit, self.now = 8, 0.0
        self.cache, self.counters, self.mapper = make(self.world, max_persistent_grants=8)
        self.nodes: dict[int, list[Any]] = {}
        self.requests: list[tuple[list[Any], list[int]]] = []
        self.expected = dict.fromkeys(("hits", "misses", "overflow", "purged"), 0)

    @rule(picks=st.lists(st.integers(0, 29), min_size=1, max_size=30), write=st.booleans())
    def acquire(self, picks: list[int], write: bool) -> None:
        refs = [self.refs[pick] for pick in picks]
        kept, missing = [], []
        for ref in refs:
            if ref in self.nodes and not self.nodes[ref][0]:
                self.nodes[ref][0] = True
                kept.append(ref)
            else:
                missing.append(ref)
        self.expected["hits"] += len(kept)
        self.expected["misses"] += len(missing)
        for ref in missing:
            if ref in self.nodes:
                continue
            if len(self.nodes) >= self.limit:
                self.expected["overflow"] += 1
            else:
                self.nodes[ref] = [True, self.now]
                kept.append(ref)
        self.requests.append((self.cache.acquire(refs, device_writes=write, now=self.now), kept))

    @precondition(lambda self: self.requests)
    @rule(number=st.integers(0, 1000))
    def release(self, number: int) -> None:
        grants, kept = self.requests.pop(number % len(self.requests))
        ops = self.counters.unmap_ops
        self.cache.release(grants, self.now)
        assert self.counters.unmap_ops - ops == (len(grants) > len(kept)), "one unmap, and only if needed"
        for ref in kept:
            self.nodes[ref] = [False, self.now]

    @rule(picks=st.lists(st.integers(0, 29), max_size=10))
    def fail(self, picks: list[int]) -> None:
        fresh = {self.refs[pick] for pick in picks}
        if fresh & set(self.nodes) or len(self.nodes) + len(fresh) > self.limit:
            return
        with pytest.raises(GrantError):
            self.cache.acquire([*sorted(fresh), UNGRANTED], device_writes=False, now=self.now)
        self.expected["misses"] += len(fresh) + 1
        for ref in fresh:
            self.nodes[ref] = [False, self.now]

    @rule(limit=st.sampled_from([0, 3, 8, 20]))
    def set_limit(self, limit: int) -> None:
        self.limit = limit
        self.cache.set_limits(limit, 60.0)

    @rule(seconds=st.sampled_from([0.1, 30.0, 60.0]))
    def purge(self, seconds: float) -> None:
        self.now += seconds
        idle = sorted(ref for ref, (active, _) in self.nodes.items() if not active)
        gone = [ref for ref in idle if self.now - self.nodes[ref][1] >= 60.0]
        wanted = max(0, len(self.nodes) - self.limit)
        gone += [ref for ref in idle if ref not in gone][: max(0, wanted - len(gone))]
        assert self.cache.purge(self.now) == len(gone)
        for ref in gone:
            del self.nodes[ref]
        self.expected["purged"] += len(gone)

    @invariant()
    def agrees(self) -> None:
        counters = self.counters
        counted = {name: getattr(counters, f"persistent_{name}") for name in self.expected}
        assert counted == self.expected
        assert counters.persistent_current == len(self.nodes)
        assert counters.persistent_in_use == sum(active for active, _ in self.nodes.values())
        passing = sum(len(grants) - len(kept) for grants, kept in self.requests)
        assert self.mapper.mapped_pages == len(self.nodes) + passing
        check(self.cache, counters, self.mapper)
        self.world.check()

    def teardown(self) -> None:
        for grants, _ in self.requests:
            self.cache.release(grants, self.now)
        self.cache.close()
        assert self.world.pins() == {}
        assert self.counters.map_pages == self.counters.unmap_pages
        self.world.close()


def test_cache_agrees_with_a_model(world_class: type[Any]) -> None:
    CacheMachine.world_class = world_class
    run_state_machine_as_test(CacheMachine, settings=settings(max_examples=40, stateful_step_count=25))
