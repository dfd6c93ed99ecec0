"""What the statistics count, and when: Linux's rules (dispatch_rw_block_io in blkback.c), in both engines."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines.sides import DISK_SECTORS, FIRST_GOOD, FIRST_TABLE, UNGRANTED, NativeTwin, PythonTwin, Setup

from xenblk.blkback.statistics import NAMES
from xenblk.blkif import BlkifRequest, BlkifSegment, DiscardRequest, IndirectRequest, Request
from xenblk.disk import FileDisk

READ, WRITE, BARRIER, FLUSH = 0, 1, 2, 3
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2
WHOLE, HALF, BAD = BlkifSegment(FIRST_GOOD, 0, 7), BlkifSegment(FIRST_GOOD, 2, 5), BlkifSegment(UNGRANTED, 0, 7)
BEYOND = BlkifSegment(FIRST_GOOD, 0, 8)
PATIENCE_S = 20.0
ENGINES = {"python": PythonTwin, "native": NativeTwin}

Counted = Callable[..., tuple[int, dict[str, int]]]


@pytest.fixture(params=ENGINES)
def counted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counted]:
    """Has one request served by a new engine: its status, and what the statistics are then, but for zeros."""
    made = []

    def ask(sent: Request | bytes, *, break_disk: bool = False, **setup: object) -> tuple[int, dict[str, int]]:
        twin = ENGINES[request.param](Setup(**setup), tmp_path)  # type: ignore[arg-type]
        made.append(twin)
        if break_disk:
            _break(twin.disk)
        twin.guest.put(sent if isinstance(sent, bytes) else twin.guest.abi.pack_request(sent))
        twin.guest.front.push()
        deadline_s = time.monotonic() + PATIENCE_S
        while not (answers := twin.guest.answers()):  # a file may be flushed beside us
            twin.serve()
            assert time.monotonic() < deadline_s
        (answer,) = answers
        counts = twin.counters.snapshot()
        return answer.status, {name: counts[name] for name in NAMES if counts[name]}

    yield ask
    for twin in made:
        twin.end()


def _break(disk: object) -> None:
    """Neither reads nor writes work from now on; a flush does."""
    assert isinstance(disk, FileDisk)
    directory = os.open("/", os.O_PATH)
    os.dup2(directory, disk.fileno())
    os.close(directory)


def _rw(operation: int, *segments: BlkifSegment, sector: int = 0, nr_segments: int | None = None) -> BlkifRequest:
    return BlkifRequest(operation, 0, 7, sector, len(segments) if nr_segments is None else nr_segments, segments)


@pytest.mark.parametrize("grant_copy", [False, True])
@pytest.mark.parametrize(
    ("operation", "request_name", "sector_name"),
    [
        (READ, "rd_req", "rd_sect"),
        (WRITE, "wr_req", "wr_sect"),
        (BARRIER, "f_req", "wr_sect"),
        (FLUSH, "f_req", "wr_sect"),
    ],
)
def test_requests_and_their_sectors(
    counted: Counted, operation: int, request_name: str, sector_name: str, grant_copy: bool
) -> None:
    """What a flush or a barrier carries is written."""
    for disk in ("memory", "tmpfs"):
        setup = {"disk": disk, "grant_copy": grant_copy}
        assert counted(_rw(operation, WHOLE, HALF), **setup) == (OKAY, {request_name: 1, sector_name: 12})


@pytest.mark.parametrize("operation", [BARRIER, FLUSH])
def test_an_empty_flush_moves_no_sectors(counted: Counted, operation: int) -> None:
    assert counted(_rw(operation)) == (OKAY, {"f_req": 1})


@pytest.mark.parametrize(
    ("operation", "name"), [(READ, "rd_req"), (WRITE, "wr_req"), (BARRIER, "f_req"), (FLUSH, "f_req")]
)
def test_a_request_is_counted_before_it_is_checked(counted: Counted, operation: int, name: str) -> None:
    for wrong in (
        _rw(operation, WHOLE, nr_segments=12),
        _rw(operation, BEYOND),
        _rw(operation, WHOLE, sector=DISK_SECTORS),
        _rw(operation, BAD),
        _rw(operation, WHOLE, BAD),
    ):
        assert counted(wrong) == (ERROR, {name: 1})
    if operation != READ:
        assert counted(_rw(operation, WHOLE), read_only=True) == (ERROR, {name: 1})


@pytest.mark.parametrize(("operation", "name"), [(READ, "rd_req"), (WRITE, "wr_req")])
def test_indirect_requests_count_as_what_they_stand_for(counted: Counted, operation: int, name: str) -> None:
    empty = IndirectRequest(operation, 0, 7, 0, 0, (FIRST_TABLE, *[0] * 7))
    unreadable = IndirectRequest(operation, 0, 7, 0, 5, (UNGRANTED, *[0] * 7))
    assert counted(empty) == (ERROR, {name: 1})
    assert counted(unreadable) == (ERROR, {name: 1})
    assert counted(IndirectRequest(FLUSH, 0, 7, 0, 5, (FIRST_TABLE, *[0] * 7))) == (ERROR, {})


def test_what_is_not_served_is_not_counted(counted: Counted) -> None:
    assert counted(bytes([77]).ljust(112, b"\0")) == (EOPNOTSUPP, {})


@pytest.mark.parametrize(("operation", "names"), [(READ, ("rd_req", "rd_sect")), (WRITE, ("wr_req", "wr_sect"))])
@pytest.mark.parametrize("grant_copy", [False, True])
def test_sectors_count_when_they_are_asked_for(
    counted: Counted, operation: int, names: tuple[str, str], grant_copy: bool
) -> None:
    """Whatever the disk makes of them."""
    status, counts = counted(_rw(operation, WHOLE), break_disk=True, disk="tmpfs", grant_copy=grant_copy)
    assert (status, counts) == (ERROR, {names[0]: 1, names[1]: 8})


def test_discards(counted: Counted) -> None:
    assert counted(DiscardRequest(0, 7, 0, 8)) == (OKAY, {"ds_req": 1})
    assert counted(DiscardRequest(0, 7, 0, 8), read_only=True) == (ERROR, {}), "a denied one is not counted"
    assert counted(DiscardRequest(0, 7, DISK_SECTORS, 8)) == (ERROR, {})


def test_a_request_that_finds_no_record_counts_as_that_each_time(tmp_path: Path) -> None:
    for engine in ENGINES.values():
        twin = engine(Setup(charged=True), tmp_path)
        twin.guest.put(twin.guest.abi.pack_request(_rw(READ, WHOLE)))
        twin.guest.front.push()
        twin.serve()
        twin.serve()
        assert (twin.counters.oo_req, twin.counters.rd_req) == (2, 0)
        twin.charge(1)
        twin.serve()
        assert (twin.counters.oo_req, twin.counters.rd_req) == (2, 1)
        twin.end()
