"""Where the two CPUs are: a virtual machine's host moves them, and shared memory is several times faster or slower.

A cache line's round trip, taken before and after each measurement, tells. Round trips of one run fall into groups that
are far apart; a measurement belongs to the group that both its round trips are in, and to none if they are in two.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from programs import Figures

APART: Final = 1.5
NEAR_BELOW_NS: Final = 300.0
ONE_CPU: Final = "one CPU"
MOVED: Final = "moved"


def groups(round_trips_ns: Sequence[float], apart: float = APART) -> list[list[float]]:
    """The round trips in order, cut where one is `apart` times the one before, or more."""
    ordered = sorted(round_trips_ns)
    found = [ordered[:1]] if ordered else []
    for before, after in pairwise(ordered):
        if after >= before * apart:
            found.append([])
        found[-1].append(after)
    return found


def label(group: Sequence[float], near_below_ns: float = NEAR_BELOW_NS) -> str:
    """A group's name: near or far, and its median, as there may be several of each."""
    middle = median(group)
    return f"{'near' if middle < near_below_ns else 'far'}, {middle:.0f} ns"


def places(measured: Sequence[Figures], near_below_ns: float = NEAR_BELOW_NS) -> list[str]:
    """Where the CPUs were during each measurement: a group's name, MOVED, or ONE_CPU if there is no round trip."""
    pairs = [(figures.cacheline_ns_before, figures.cacheline_ns_after) for figures in measured]
    named = {
        round_trip_ns: label(group, near_below_ns)
        for group in groups([round_trip_ns for pair in pairs for round_trip_ns in pair if round_trip_ns is not None])
        for round_trip_ns in group
    }
    return [_place(before and named[before], after and named[after]) for before, after in pairs]


def _place(before: str | float | None, after: str | float | None) -> str:
    if before is None or after is None:
        return ONE_CPU
    return str(before) if before == after else MOVED
