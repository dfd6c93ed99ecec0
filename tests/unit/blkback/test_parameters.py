"""Parameters that a backend cannot work with are refused when they are set."""

import math
import re

import pytest

from xenblk.blkback import BackendParameters
from xenblk.errors import UsageError


@pytest.mark.parametrize("seconds", [-1.0, -math.inf, math.inf, math.nan, 1e300])
def test_regression_impossible_seconds_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match=f"unused_seconds is 0 to 1000000000, not {re.escape(str(seconds))}"):
        BackendParameters(persistent_grant_unused_seconds=seconds)


@pytest.mark.parametrize("seconds", [0, 0.5, 60, 1e9])
def test_possible_seconds(seconds: float) -> None:
    assert BackendParameters(persistent_grant_unused_seconds=seconds).persistent_grant_unused_seconds == seconds


@pytest.mark.parametrize("count", [-1, 4097])
def test_more_indirect_segments_than_eight_pages_hold(count: int) -> None:
    with pytest.raises(UsageError, match=f"max_indirect_segments is 0 to 4096, not {count}"):
        BackendParameters(max_indirect_segments=count)


def test_256_indirect_segments_are_offered() -> None:
    assert BackendParameters().max_indirect_segments == 256
    assert BackendParameters(max_indirect_segments=4096).max_indirect_segments == 4096
