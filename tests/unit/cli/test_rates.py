"""Rates of counters that go up, of rings that come and go, and of files that are not a ring's."""

import dataclasses
from pathlib import Path

import pytest

from xenblk.abi import DOM0, Domid
from xenblk.cli.rates import RateMeter, Rates, RingEnd
from xenblk.counters import Counters
from xenblk.errors import UsageError
from xenblk.toolstack import DiskInfo
from xenblk.xenbus import XenbusState

XVDA = 51712


def disk(domid: int) -> DiskInfo:
    """A disk that is served."""
    return DiskInfo(Domid(domid), XVDA, DOM0, "memory:1M", "w", XenbusState.CONNECTED, XenbusState.CONNECTED)


def ring(folder: Path, domid: int, queue: int = 0, end: str = "back") -> Counters:
    """The counters of a ring's end."""
    return Counters.create(folder / f"vbd-0-{domid}-{XVDA}-{queue}.{end}")


def test_each_rate_is_what_was_counted_by_the_time_that_passed(tmp_path: Path) -> None:
    back, front = ring(tmp_path, 1), ring(tmp_path, 1, end="front")
    back.rd_req, back.map_pages, back.notify_sent = 1000, 1000, 1000
    meter = RateMeter(tmp_path)
    meter.look([(disk(1), 1)], 100.0)
    back.rd_req += 10
    back.wr_req, back.f_req, back.ds_req, back.rd_sect, back.wr_sect = 20, 2, 4, 3000, 1000
    back.map_pages += 8
    back.unmap_pages, back.copy_pages, back.persistent_hits, back.persistent_current = 6, 40, 50, 7
    back.notify_sent += 5
    front.notify_sent = 3
    assert meter.look([(disk(1), 1)], 102.0) == {
        RingEnd(Domid(1), XVDA, 0, "back"): Rates(18.0, 1.024, 4.0, 3.0, 20.0, 25.0, 7, 2.5),
        RingEnd(Domid(1), XVDA, 0, "front"): Rates(notify_sent_per_s=1.5),
    }
    again = meter.look([(disk(1), 1)], 103.0)[RingEnd(Domid(1), XVDA, 0, "back")]
    assert dataclasses.astuple(again) == (0, 0, 0, 0, 0, 0, 7, 0)


def test_rings_come_and_go(tmp_path: Path) -> None:
    ring(tmp_path, 2)
    meter = RateMeter(tmp_path)
    assert meter.look([], 1.0) == {}
    assert meter.look([(disk(2), 1)], 2.0) == {RingEnd(Domid(2), XVDA, 0, "back"): Rates()}
    ring(tmp_path, 1)
    second = ring(tmp_path, 2, queue=1)
    second.notify_sent = 9
    (tmp_path / ".vbd-draft").touch()
    found = meter.look([(disk(2), 2), (disk(1), 1)], 3.0)
    assert [(end.domid, end.queue, rates == Rates()) for end, rates in found.items()] == [
        (1, 0, True),
        (2, 0, False),
        (2, 1, True),
    ]
    second.notify_sent = 1
    assert meter.look([(disk(2), 2)], 4.0)[RingEnd(Domid(2), XVDA, 1, "back")] == Rates(), "it is another one"
    assert [end.queue for end in meter.look([(disk(2), 1)], 5.0)] == [0], "its frontend has one ring now"
    (tmp_path / f"vbd-0-2-{XVDA}-0.back").unlink()
    assert meter.look([(disk(2), 1)], 6.0) == {}


def test_counters_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"vbd-0-1-{XVDA}-0.back").write_bytes(b"xenblkct" + bytes(500))
    with pytest.raises(UsageError, match="version"):
        RateMeter(tmp_path).look([(disk(1), 1)], 1.0)
