"""Latencies: every one is kept, so percentiles are exact."""

import array


class LatencyLog:
    """Latencies in nanoseconds, in the order of completion."""

    def __init__(self) -> None:
        self.latencies_ns = array.array("Q")
        self.record = self.latencies_ns.append
        """Add one latency; bound once, because it is called per operation."""

    def percentiles_ns(self, *percents: float) -> list[int]:
        """For each of `percents`, 0 to 100, the smallest latency that so many per cent do not exceed.

        0 is the minimum, 100 the maximum. Zeros if nothing was recorded.
        """
        ordered = sorted(self.latencies_ns)
        if not ordered:
            return [0] * len(percents)
        return [ordered[_rank(percent, len(ordered)) - 1] for percent in percents]


def _rank(percent: float, count: int) -> int:
    """The nearest rank, from 1 to `count`."""
    assert 0 <= percent <= 100
    return max(1, -int(-percent * count // 100))
