"""A backend that may map no more than it has mapped: kept pages leave room for the pages of requests."""

import contextlib
from pathlib import Path

import pytest
from engines.sides import FIRST_GOOD, NR_GOOD, NativeTwin, PythonTwin, Setup

from xenblk.blkif import BlkifOp, BlkifRequest, BlkifResponse, BlkifSegment, BlkifStatus

NR_SEGMENTS = 11
MAY_BE_MAPPED = 48


def read(twin: PythonTwin | NativeTwin, first: int) -> list[BlkifResponse]:
    segments = tuple(BlkifSegment(first + at, 0, 7) for at in range(NR_SEGMENTS))
    twin.guest.put(twin.guest.abi.pack_request(BlkifRequest(BlkifOp.READ, 0, first, 0, NR_SEGMENTS, segments)))
    twin.guest.front.push()
    twin.serve()
    return twin.guest.answers()


@pytest.mark.parametrize("engine", [PythonTwin, NativeTwin])
def test_regression_kept_pages_leave_room_for_requests(
    engine: type[PythonTwin] | type[NativeTwin], tmp_path: Path
) -> None:
    twin = engine(Setup(maptrack_entries=MAY_BE_MAPPED), tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(twin.end)
        for first in range(FIRST_GOOD, FIRST_GOOD + NR_GOOD - NR_SEGMENTS):
            assert [answer.status for answer in read(twin, first)] == [BlkifStatus.OKAY]
        counts = twin.counters.snapshot()
        assert MAY_BE_MAPPED // 2 < counts["persistent_peak"] <= MAY_BE_MAPPED * 3 // 4
        assert counts["persistent_overflow"] > 0
        assert counts["persistent_current"] == twin.guest.pins()
