"""Percentiles against their definition."""

from hypothesis import given
from hypothesis import strategies as st

from xenblk.harness.latency import LatencyLog


def log_of(*latencies_ns: int) -> LatencyLog:
    """A log of these latencies."""
    log = LatencyLog()
    for latency_ns in latencies_ns:
        log.record(latency_ns)
    return log


def test_nothing_recorded() -> None:
    assert LatencyLog().percentiles_ns(0, 50, 100) == [0, 0, 0]


def test_one_latency_is_every_percentile() -> None:
    assert log_of(7).percentiles_ns(0, 50, 99, 100) == [7, 7, 7, 7]


def test_a_hundred_latencies_in_any_order() -> None:
    assert log_of(*range(100, 0, -1)).percentiles_ns(0, 1, 50, 99, 99.5, 100) == [1, 1, 50, 99, 100, 100]


def test_latencies_above_four_seconds_fit() -> None:
    assert log_of(2**63).percentiles_ns(100) == [2**63]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300), st.integers(0, 100))
def test_a_percentile_is_the_smallest_latency_that_covers_its_share(latencies_ns: list[int], percent: int) -> None:
    [found] = log_of(*latencies_ns).percentiles_ns(percent)

    covered = [sum(other <= latency for other in latencies_ns) for latency in sorted(latencies_ns)]
    wanted = next(
        latency
        for latency, count in zip(sorted(latencies_ns), covered, strict=True)
        if count * 100 >= percent * len(latencies_ns)
    )
    assert found == wanted
