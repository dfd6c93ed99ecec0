"""The choice of the store, on a model machine: time is a number, and what each store costs is known."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from xenblk._native import ffi, lib

PLAIN, STREAMING, MEASURED = lib.XB_COPY_PLAIN, lib.XB_COPY_STREAMING, lib.XB_COPY_MEASURED


@dataclass(frozen=True)
class Work:
    """One workload on one placement of the CPUs; costs in ns a request, both ends at work."""

    name: str
    bytes_per_request: int
    batch: tuple[int, int]
    plain_ns: int
    streaming_ns: int
    sleeps: bool = False

    def cost_ns(self, how: int) -> int:
        return self.streaming_ns if how == STREAMING else self.plain_ns

    @property
    def winner(self) -> int:
        return PLAIN if self.plain_ns < self.streaming_ns else STREAMING


# Measured on two virtual CPUs: near ones share a cache, far ones do not.
NEAR_4K_1 = Work("near, 4K, depth 1", 4096, (1, 1), 930, 1312)
NEAR_4K_32 = Work("near, 4K reads, depth 32", 4096, (1, 24), 600, 523)
NEAR_4K_32_WRITES = Work("near, 4K writes, depth 32", 4096, (1, 24), 514, 439)
NEAR_64K_32 = Work("near, 64K, depth 32", 65536, (1, 24), 3571, 4016)
FAR_4K_1 = Work("far, 4K, depth 1", 4096, (1, 1), 2488, 1706)
FAR_4K_32 = Work("far, 4K reads, depth 32", 4096, (1, 24), 1901, 537)
FAR_4K_32_WRITES = Work("far, 4K writes, depth 32", 4096, (1, 24), 2008, 460)
FAR_64K_32 = Work("far, 64K, depth 32", 65536, (1, 24), 25126, 3236)
ONE_CPU_4K_1 = Work("one CPU, 4K, depth 1", 4096, (1, 1), 4300, 4700, sleeps=True)
ONE_CPU_4K_32 = Work("one CPU, 4K, depth 32", 4096, (20, 32), 612, 883, sleeps=True)
TABLE = [
    NEAR_4K_1,
    NEAR_4K_32,
    NEAR_4K_32_WRITES,
    NEAR_64K_32,
    FAR_4K_1,
    FAR_4K_32,
    FAR_4K_32_WRITES,
    FAR_64K_32,
    ONE_CPU_4K_1,
    ONE_CPU_4K_32,
]
NOISE = 0.15


class Machine:
    """Runs work with the stores that a copier chooses; keeps account of what they cost but for the noise."""

    def __init__(self) -> None:
        self.seed = random.randrange(2**32)
        print(f"seed {self.seed}")
        self.rng = random.Random(self.seed)
        self.now_ns = 1_000_000_000_000.0
        self.clock_reads = 0
        self.clock = ffi.callback("uint64_t(void)", self.read_clock)
        self.copier = ffi.new("struct xb_copier *")
        lib.xb_copier_init(self.copier, MEASURED)
        self.copier.now_ns = self.clock
        self.batches = 0
        self.noise = 1.0
        self.spent_ns = self.best_ns = 0.0
        self.last_how: int = PLAIN

    def read_clock(self) -> int:
        self.clock_reads += 1
        return int(self.now_ns)

    @property
    def statistics(self) -> Any:
        return self.copier.statistics

    def loss(self) -> float:
        return self.spent_ns / self.best_ns - 1

    def forget(self) -> None:
        self.spent_ns = self.best_ns = 0.0

    def batch(self, work: Work) -> int:
        """One batch; the noise lasts for some batches, so that no window averages it away."""
        if self.batches % 16 == 0:
            self.noise = 1 + self.rng.uniform(-NOISE, NOISE)
        self.batches += 1
        nr_requests = self.rng.randint(*work.batch)
        how = lib.xb_copier_choose(self.copier, nr_requests, nr_requests * work.bytes_per_request)
        # The pages of the last batch are still on their way: half of this batch's time is theirs.
        cost_ns = nr_requests * (work.cost_ns(how) + work.cost_ns(self.last_how)) / 2
        self.last_how = how
        self.now_ns += cost_ns * self.noise
        self.spent_ns += cost_ns
        self.best_ns += nr_requests * work.cost_ns(work.winner)
        if work.sleeps:
            lib.xb_copier_slept(self.copier)
        return int(how)

    def run(self, work: Work, duration_ns: float, each: Callable[[], None] = lambda: None) -> None:
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            self.batch(work)
            each()

    def interrupted(self) -> None:
        """Others take the CPU for a while, now and then."""
        if self.rng.random() < 0.0002:
            self.now_ns += self.rng.uniform(1e6, 4e6)

    def in_use(self) -> int:
        return int(self.copier.regimes[self.copier.regime].how)


def names(work: Work) -> str:
    return work.name


@pytest.mark.parametrize("work", TABLE, ids=names)
def test_the_winner_is_found_soon(work: Work) -> None:
    machine = Machine()
    machine.run(work, 300 * 64 * work.cost_ns(PLAIN))
    assert machine.in_use() == work.winner


@pytest.mark.parametrize("work", TABLE, ids=names)
def test_a_long_run_loses_less_than_three_percent(work: Work) -> None:
    machine = Machine()
    machine.run(work, 100_000 * work.cost_ns(work.winner), machine.interrupted)
    machine.forget()
    machine.run(work, 300_000 * work.cost_ns(work.winner), machine.interrupted)
    assert machine.loss() < 0.03


@pytest.mark.parametrize(
    ("before", "after", "within_ms"),
    [
        (NEAR_4K_1, FAR_4K_1, 30),
        (FAR_4K_1, NEAR_4K_1, 60),
        (NEAR_64K_32, FAR_64K_32, 200),
        # What it costs to try plain stores while far (trials are 8 times slower) bounds how soon they are tried again.
        (FAR_64K_32, NEAR_64K_32, 1_500),
    ],
)
def test_the_winner_is_followed_when_the_cpus_move(before: Work, after: Work, within_ms: int) -> None:
    machine = Machine()
    machine.run(before, 50_000 * before.cost_ns(before.winner))
    machine.run(after, within_ms * 1_000_000)
    assert machine.in_use() == after.winner
    machine.forget()
    machine.run(after, 50_000 * after.cost_ns(after.winner))
    assert machine.loss() < 0.03


def test_each_kind_of_work_has_its_own_store() -> None:
    machine = Machine()
    for _ in range(4):
        for work in (NEAR_4K_1, NEAR_4K_32):
            machine.run(work, 20_000 * work.cost_ns(PLAIN))
    machine.forget()
    for _ in range(20):
        for work in (NEAR_4K_1, NEAR_4K_32):
            machine.run(work, 5_000 * work.cost_ns(PLAIN))
    assert machine.loss() < 0.03


def test_a_window_with_a_sleep_is_dropped_unless_all_have_one() -> None:
    machine = Machine()
    machine.run(FAR_4K_32, 40_000_000)
    cost, regime = machine.copier.regimes[machine.copier.regime].cost, machine.copier.regime
    for _ in range(200):
        machine.run(FAR_4K_32, 400_000)
        machine.now_ns += 3_000_000
        lib.xb_copier_slept(machine.copier)
    assert machine.copier.regime == regime
    assert machine.copier.regimes[regime].cost == pytest.approx(cost, rel=0.3)
    assert machine.in_use() == STREAMING


def run_with_consequences(machine: Machine, works: dict[int, Work], duration_ns: float) -> int:
    """The store that was used last decides what the work is like. Returns in how many batches a store lost."""
    winner = min(works, key=lambda how: works[how].cost_ns(how))
    end_ns, lost = machine.now_ns + duration_ns, 0
    while machine.now_ns < end_ns:
        lost += machine.batch(works[machine.last_how]) != winner
    return lost


@pytest.mark.parametrize("known", [False, True])
def test_a_store_that_ends_the_sleeping_wins(known: bool) -> None:
    """Plain stores make the poll fail and the end sleep; they won when the CPUs were near and nobody slept."""
    awake = Work("far, 64K, depth 1", 65536, (1, 1), 40_000, 12_000)
    asleep = Work("far, 64K, depth 1, asleep", 65536, (1, 1), 80_000, 12_000, sleeps=True)
    machine = Machine()
    if known:
        machine.run(Work("near, 64K, depth 1", 65536, (1, 1), 10_000, 13_000), 100_000_000)
    works = {PLAIN: asleep, STREAMING: awake}
    run_with_consequences(machine, works, 1_500_000_000)
    batches = machine.batches
    assert run_with_consequences(machine, works, 1_500_000_000) < 0.02 * (machine.batches - batches)


def test_a_store_that_changes_the_batches_wins() -> None:
    machine = Machine()
    machine.run(Work("near, few", 4096, (2, 4), 500, 800), 20_000_000)
    machine.run(Work("near, many", 4096, (16, 24), 500, 800), 20_000_000)
    few, many = Work("far, few", 4096, (2, 4), 1900, 540), Work("far, many", 4096, (16, 24), 1900, 540)
    works = {PLAIN: few, STREAMING: many}
    run_with_consequences(machine, works, 100_000_000)
    batches = machine.batches
    assert run_with_consequences(machine, works, 100_000_000) < 0.03 * (machine.batches - batches)


@pytest.mark.parametrize("how", [PLAIN, STREAMING])
def test_a_fixed_store_is_never_measured(how: int) -> None:
    machine = Machine()
    lib.xb_copier_init(machine.copier, how)
    machine.copier.now_ns = machine.clock
    assert {machine.batch(FAR_4K_32) for _ in range(1000)} == {how}
    assert machine.clock_reads == 0


def test_the_clock_is_read_once_a_window() -> None:
    machine = Machine()
    machine.run(FAR_4K_1, 50_000_000)
    assert 0 < machine.clock_reads <= machine.batches / 32


@pytest.mark.parametrize("scale", [1e-4, 1e9])
def test_absurd_times_do_no_harm(scale: float) -> None:
    """A clock that stands still, and years between two batches."""
    machine = Machine()
    for _ in range(20_000):
        machine.now_ns = (machine.now_ns + scale * machine.rng.random()) % 2**63
        nr_requests = machine.rng.randint(1, 1000)
        how = lib.xb_copier_choose(machine.copier, nr_requests, nr_requests * machine.rng.choice((512, 2**20)))
        assert how in {PLAIN, STREAMING}
        if machine.rng.random() < 0.1:
            lib.xb_copier_slept(machine.copier)
