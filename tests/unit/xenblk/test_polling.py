"""Busy polling against a simulated peer: time is a number, a spin takes SPIN_NS of it."""

import random
from typing import Any

import pytest

from xenblk._native import ffi, lib

SPIN_NS = 40
POLL_US = 50
POLL_NS = POLL_US * 1000
WAKE_NS = 20_000
SWITCH_NS = 2_000


class Machine:
    """One end's thread; a request is there at a given time, or at None: only once this thread sleeps."""

    def __init__(self, poll_us: int = POLL_US) -> None:
        self.now_ns = 1_000_000_000_000
        self.started_ns = self.now_ns
        self.clock = ffi.callback("uint64_t(void)", self.read_clock)
        self.clock_reads = 0
        self.poller = ffi.new("struct xb_poller *")
        lib.xb_poller_init(self.poller, poll_us)
        self.poller.now_ns = self.clock

    def read_clock(self) -> int:
        self.clock_reads += 1
        return self.now_ns

    @property
    def statistics(self) -> Any:
        return self.poller.statistics

    @property
    def elapsed_ns(self) -> int:
        return self.now_ns - self.started_ns

    def vain_share(self) -> float:
        return float(self.statistics.vain_ns / self.elapsed_ns)

    def run(self, duration_ns: int) -> None:
        self.now_ns += duration_ns

    def await_request(self, until_ns: int | None, sleep_costs_ns: int) -> None:
        """Poll for a request that comes at `until_ns`; sleeping until then adds `sleep_costs_ns`."""
        lib.xb_poller_begin(self.poller)
        while until_ns is None or self.now_ns < until_ns:
            if not lib.xb_poller_again(self.poller):
                self.sleep(max(until_ns or 0, self.now_ns) + sleep_costs_ns)
                return
            self.now_ns += SPIN_NS
        lib.xb_poller_found(self.poller)

    def sleep(self, until_ns: int) -> None:
        self.now_ns = until_ns
        lib.xb_poller_slept(self.poller)

    def check_bound(self) -> None:
        """What the header promises."""
        statistics = self.statistics
        paid = self.elapsed_ns / (lib.XB_POLLER_SHARE * self.poller.poll_ns)
        assert statistics.vain <= lib.XB_POLLER_CREDIT + statistics.found + paid
        longest_ns = self.poller.poll_ns + 2 * lib.XB_POLLER_SPINS * SPIN_NS
        assert statistics.vain_ns <= statistics.vain * longest_ns


def test_a_busy_peer_on_another_cpu_is_never_slept_for() -> None:
    machine = Machine()
    for _ in range(20_000):
        machine.await_request(machine.now_ns + 900, WAKE_NS)
    assert machine.statistics.slept == 0
    assert machine.statistics.found == machine.statistics.polls == 20_000
    assert machine.clock_reads == 0


def test_a_peer_on_the_same_cpu_costs_less_than_one_percent() -> None:
    machine = Machine()
    while machine.elapsed_ns < 2_000_000_000:
        machine.await_request(None, SWITCH_NS)
        machine.run(2_300)
    assert machine.statistics.found == 0
    assert machine.vain_share() < 0.01
    machine.check_bound()


def test_an_idle_disk_costs_less_than_five_percent() -> None:
    machine = Machine()
    for _ in range(2_000):
        machine.await_request(machine.now_ns + 10_000_000, WAKE_NS)
        machine.run(2_000)
    assert machine.vain_share() < 0.01
    machine.check_bound()


def test_requests_somewhat_farther_apart_than_the_window_cost_less_than_one_percent() -> None:
    machine = Machine()
    for _ in range(20_000):
        machine.await_request(machine.now_ns + 2 * POLL_NS, WAKE_NS)
    assert machine.statistics.found == 0
    assert machine.vain_share() < 0.01


def test_a_burst_is_slept_for_once() -> None:
    machine = Machine()
    nr_bursts = 200
    for _ in range(nr_bursts):
        machine.await_request(machine.now_ns + 30_000_000, WAKE_NS)
        for _ in range(50):
            machine.run(500)
            machine.await_request(machine.now_ns + 900, WAKE_NS)
    assert machine.statistics.slept == nr_bursts
    assert machine.vain_share() < 0.01
    machine.check_bound()


def test_bursts_in_close_order_are_polled_for_each() -> None:
    machine = Machine()
    for _ in range(300):
        machine.await_request(machine.now_ns + 200_000, WAKE_NS)
        for _ in range(5):
            machine.await_request(machine.now_ns + 900, WAKE_NS)
    assert machine.statistics.slept == machine.statistics.vain == 300
    machine.check_bound()


def test_polling_comes_back_when_the_peer_moves_to_another_cpu() -> None:
    machine = Machine()
    while machine.elapsed_ns < 200_000_000:
        machine.await_request(None, SWITCH_NS)
    moved_at_ns, slept = machine.now_ns, machine.statistics.slept
    while machine.statistics.found == 0:
        machine.await_request(machine.now_ns + 900, WAKE_NS)
    assert machine.now_ns - moved_at_ns <= lib.XB_POLLER_SHARE * POLL_NS + WAKE_NS + 900
    slept = machine.statistics.slept
    for _ in range(1_000):
        machine.await_request(machine.now_ns + 900, WAKE_NS)
    assert machine.statistics.slept == slept


def test_a_poll_interrupted_for_long_costs_one_window() -> None:
    """Others took the CPU: that is no reason to stop polling for a hundred times as long."""
    machine = Machine()
    lib.xb_poller_begin(machine.poller)
    while lib.xb_poller_again(machine.poller):
        machine.now_ns += 10_000_000
    assert machine.statistics.vain == 1
    assert machine.poller.credit_ns == (lib.XB_POLLER_CREDIT - 1) * POLL_NS


def test_zero_never_polls() -> None:
    machine = Machine(poll_us=0)
    for _ in range(100):
        machine.await_request(machine.now_ns + 10, WAKE_NS)
    assert machine.statistics.polls == 0
    assert machine.statistics.slept == 100


def test_what_the_first_look_sees_earns_nothing() -> None:
    machine = Machine()
    while machine.statistics.vain < lib.XB_POLLER_CREDIT:
        machine.await_request(None, SWITCH_NS)
    credit_ns = machine.poller.credit_ns
    machine.await_request(machine.now_ns, WAKE_NS)
    assert machine.poller.credit_ns == credit_ns
    assert machine.statistics.found == 0


@pytest.mark.parametrize("poll_us", [3, 20, 200])
def test_any_traffic_keeps_to_the_bound(poll_us: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    machine = Machine(poll_us)
    for _ in range(300):
        typical_ns = 10 ** rng.uniform(2, 6)
        stuck = rng.random() < 0.2
        for _ in range(rng.randrange(20)):
            until_ns = None if stuck else machine.now_ns + int(rng.expovariate(1 / typical_ns))
            machine.await_request(until_ns, rng.choice((SWITCH_NS, WAKE_NS)))
        machine.check_bound()
    statistics = machine.statistics
    assert statistics.polls == statistics.found + statistics.vain


def test_the_real_clock_ends_a_poll() -> None:
    poller = ffi.new("struct xb_poller *")
    lib.xb_poller_init(poller, 1_000)
    lib.xb_poller_begin(poller)
    while lib.xb_poller_again(poller):
        pass
    assert poller.statistics.vain == 1
    assert poller.statistics.vain_ns >= 1_000_000
