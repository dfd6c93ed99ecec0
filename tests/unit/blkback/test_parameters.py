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
