"""What a backend's purge lets go of, with a clock that the test holds: the same in both engines.

The numbers are those of purge_persistent_gnt in Linux's xen-blkback/blkback.c.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.sides import FIRST_GOOD, GTF_PERMIT_ACCESS, NR_GOOD, NativeTwin, PythonTwin, Setup

from xenblk.blkif import BlkifRequest, BlkifSegment

READ = 0
ENGINES = {"python": PythonTwin, "native": NativeTwin}


class Purged:
    """An engine whose guest has used references FIRST_GOOD and up, once each, at the time that `use` says."""

    def __init__(self, engine: str, folder: Path, limit: int, unused_s: int, **setup: int) -> None:
        self.twin = ENGINES[engine](Setup(limit=limit, unused_s=unused_s, **setup), folder)

    def use(self, refs: range) -> None:
        guest = self.twin.guest
        for start in range(refs.start, refs.stop, 11):
            segments = tuple(BlkifSegment(FIRST_GOOD + n, 0, 7) for n in range(start, min(start + 11, refs.stop)))
            guest.put(guest.abi.pack_request(BlkifRequest(READ, 0, start, 0, len(segments), segments)))
            guest.front.push()
            self.twin.serve()
            assert [answer.status for answer in guest.answers()] == [0]

    def kept(self) -> list[int]:
        """What is mapped between requests."""
        pins = self.twin.guest.world.pins()
        assert len(pins) == self.twin.counters.persistent_current
        return sorted(ref - FIRST_GOOD for ref in pins)

    def purge(self) -> int:
        """How many the purge let go of, which it also counts."""
        before = self.twin.counters.persistent_purged
        self.twin.purge()
        return self.twin.counters.persistent_purged - before


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def purged(engine: str, tmp_path: Path) -> Iterator[type[Purged]]:
    """Makes Purged of one engine."""
    made: list[Purged] = []

    class Made(Purged):
        def __init__(self, limit: int, unused_s: int = 60, **setup: int) -> None:
            super().__init__(engine, tmp_path, limit, unused_s, **setup)
            made.append(self)

    yield Made
    for one in made:
        one.twin.end()
        assert one.twin.counters.map_pages == one.twin.counters.unmap_pages


@pytest.mark.parametrize(
    ("nodes", "limit", "overflow", "share"),
    [
        (NR_GOOD - 1, NR_GOOD - 1, True, 5),
        (NR_GOOD - 1, NR_GOOD - 1, False, 0),
        (100, 100, True, 5),
        (99, 99, True, 0),
        (50, 50, True, 0),
        (99, 100, False, 0),
    ],
)
def test_the_share_is_of_whole_hundreds(purged: type, nodes: int, limit: int, overflow: bool, share: int) -> None:
    cache = purged(limit)
    cache.use(range(nodes + overflow))
    assert cache.twin.counters.persistent_overflow == overflow
    assert cache.purge() == share
    assert cache.kept() == list(range(share, nodes)), "the lowest references go first"
    assert cache.purge() == 0, "what was purged cleared the flag"


@pytest.mark.parametrize(("lower", "gone"), [(100, 45), (120, 25), (40, 100), (0, 140)])
def test_a_limit_lowered_while_it_runs_is_purged_down_to(purged: type, lower: int, gone: int) -> None:
    cache = purged(140)
    cache.use(range(140))
    cache.twin.parameters.change("max_persistent_grants", str(lower))
    assert cache.purge() == gone
    assert cache.kept() == list(range(gone, 140))
    cache.use(range(140))
    assert len(cache.kept()) == max(lower, 140 - gone)


@pytest.mark.parametrize(
    ("limit", "overflow", "gone"), [(1056, True, 50), (1056, False, 0), (1000, True, 106), (1000, False, 106)]
)
def test_with_the_default_limit_or_one_lowered_from_it(purged: type, limit: int, overflow: bool, gone: int) -> None:
    cache = purged(1056, maptrack_entries=2048)
    for n in range(1057):  # the first frames are the grant table
        cache.twin.guest.world.set_entry(FIRST_GOOD + n, GTF_PERMIT_ACCESS, 0, 10 + n % 50)
    cache.use(range(1056 + overflow))
    cache.twin.parameters.change("max_persistent_grants", str(limit))
    assert cache.purge() == gone
    assert cache.kept() == list(range(gone, 1056))


def test_a_limit_raised_while_it_runs_keeps_more(purged: type) -> None:
    cache = purged(3)
    cache.use(range(NR_GOOD))
    assert len(cache.kept()) == 3
    cache.twin.parameters.change("max_persistent_grants", "1056")
    cache.purge()
    cache.use(range(NR_GOOD))
    assert cache.kept() == list(range(NR_GOOD))
    misses = cache.twin.counters.persistent_misses
    cache.use(range(NR_GOOD))
    assert cache.twin.counters.persistent_misses == misses


def test_old_pages_go_whatever_the_share(purged: type) -> None:
    cache = purged(100)
    cache.use(range(100))
    cache.twin.now_s += 59
    assert cache.purge() == 0
    cache.use(range(10))
    cache.twin.now_s += 1
    assert cache.purge() == 90
    assert cache.kept() == list(range(10))
    cache.twin.now_s += 59
    assert cache.purge() == 10
    assert cache.kept() == []


def test_old_pages_count_for_the_share(purged: type) -> None:
    cache = purged(100)
    cache.use(range(97, 100))
    cache.twin.now_s += 60
    cache.use(range(97))
    cache.use(range(100, 101))
    assert cache.twin.counters.persistent_overflow == 1
    assert cache.purge() == 5
    assert cache.kept() == list(range(2, 97)), "3 for their age, then 2 by reference"


def test_the_timeout_may_change_while_it_runs(purged: type) -> None:
    cache = purged(100, unused_s=0)
    cache.use(range(20))
    cache.twin.now_s += 10**6
    assert cache.purge() == 0, "0 is never"
    cache.use(range(5))
    cache.twin.parameters.change("persistent_grant_unused_seconds", "0.5")
    assert cache.purge() == 15
    cache.twin.now_s += 1
    assert cache.purge() == 5


@pytest.mark.parametrize("flagged", [True, False])
def test_the_rings_of_a_device_share_the_flag(purged: type, flagged: bool) -> None:
    """One overflowed, so another that is full makes room: and either clears the flag for both."""
    cache = purged(100)
    cache.use(range(100))
    cache.twin.overflowed.set(flagged)
    assert cache.purge() == (5 if flagged else 0)
    assert not cache.twin.overflowed
    cache.use(range(101))
    assert cache.twin.overflowed
