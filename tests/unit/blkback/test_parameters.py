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


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("max_persistent_grants", "0", 0, "0"),
        ("max_persistent_grants", " 1000\n", 1000, "1000"),
        ("max_buffer_pages", "7", 7, "7"),
        ("persistent_grant_unused_seconds", "0.5", 0.5, "0.5"),
        ("persistent_grant_unused_seconds", "120", 120.0, "120"),
        ("feature_persistent", "N", False, "N"),
        ("log_stats", "1", True, "Y"),
    ],
)
def test_a_parameter_may_change(name: str, text: str, value: float, shown: str) -> None:
    parameters = BackendParameters()
    before = parameters.changeable()
    parameters.change(name, text)
    assert getattr(parameters, name) == value
    assert parameters.changeable() == {**before, name: shown}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("max_persistent_grants", "-1", "max_persistent_grants is 0 to 1048576, not -1"),
        ("max_persistent_grants", "many", "max_persistent_grants is a number, not 'many'"),
        ("max_persistent_grants", "", "max_persistent_grants is a number, not ''"),
        ("max_persistent_grants", "1.5", "max_persistent_grants is a number, not '1.5'"),
        ("max_buffer_pages", str(1 << 21), "max_buffer_pages is 0 to 1048576, not 2097152"),
        ("persistent_grant_unused_seconds", "nan", "persistent_grant_unused_seconds is 0 to 1000000000, not nan"),
        ("log_stats", "maybe", "log_stats is Y or N, not 'maybe'"),
        ("grant_copy", "Y", "what may change while a backend runs is .*, not grant_copy"),
        ("nothing", "1", "what may change while a backend runs is .*, not nothing"),
        ("__class__", "1", "what may change while a backend runs is .*, not __class__"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(name: str, text: str, sentence: str) -> None:
    parameters = BackendParameters()
    with pytest.raises(UsageError, match=f"^{sentence}$"):
        parameters.change(name, text)
    assert parameters == BackendParameters()
