"""The native engine does what the Python engine does: each answer, each byte, each count, whatever a guest asks.

tests/fuzz/fuzz_engines.py is the same without an end, and shows a case that differs as short as it gets.
"""

import random

import pytest
from engines.cases import make
from engines.twins import check
from hypothesis import given, note, settings
from hypothesis import strategies as st

READ, WRITE = 0, 1


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_guest_sees_no_difference(dice: random.Random) -> None:
    case = make(dice)
    note(str(case))
    check(case)


@pytest.mark.parametrize("disk", ["memory", "tmpfs", "file", "direct"])
@pytest.mark.parametrize("grant_copy", [False, True])
def test_regression_copies_of_a_file_are_aligned_for_direct_io(disk: str, grant_copy: bool) -> None:
    """A file opened with O_DIRECT refuses buffers that are not."""
    ask = ["ask", READ, 11, 16, 1, [[34 + at, 1, 3] for at in range(11)]]
    check([["setup", {"grant_copy": grant_copy, "disk": disk}], ask, ["serve"]])


def test_regression_pages_of_a_failed_request_are_not_old() -> None:
    ask = ["ask", WRITE, 2, 2, 1, [[8, 0, 7], [500, 0, 7]]]
    setup = {"unused_s": 10}
    later = [["time", 9], ["purge"], ["time", 1], ["purge"]]
    check([["setup", setup], ["time", 60], ask, ["serve"], *later])


def test_regression_a_broken_ring_is_found_without_a_record() -> None:
    check([["setup", {"charged": True}], ["break", 1 << 31]])


def test_charges_are_used_in_order_and_what_is_left_is_discarded() -> None:
    ask = ["ask", READ, 1, 2, 1, [[8, 0, 7]]]
    serve = [ask, ask, ask, ["serve"]]
    check(
        [["setup", {"charged": True, "records_per_page": 3}], *serve, ["charge", 5], *serve, ["charge", 3], ["serve"]]
    )


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an engine that counts one sector too few; the test would pass with engines that do nothing, too."""
    monkeypatch.setattr("xenblk.blkback.engine.count_sectors", lambda segments: max(0, 8 * len(segments) - 1))
    ask = ["ask", READ, 1, 2, 1, [[8, 0, 7]]]
    with pytest.raises(AssertionError, match="rd_sect"):
        check([ask, ["serve"]])
