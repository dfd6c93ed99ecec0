"""Tables of deviations: ids by ranges, one reason for each case, and what is printed of them."""

import pytest

from xenblk.harness.doubles.deviations import (
    EITHER,
    FAIL,
    NOT_OFFERED,
    Deviation,
    matrix,
    reasons,
    rows,
    shorten,
    union,
)


def test_ranges() -> None:
    table = rows(FAIL, "B-X-009..011 B-Y-001 B-XSA-403-1", "why", "file.c")
    assert [*table] == ["B-X-009", "B-X-010", "B-X-011", "B-Y-001", "B-XSA-403-1"]
    assert set(table.values()) == {Deviation(FAIL, "why", "file.c")}
    assert shorten(table) == ["B-X-009..011", "B-Y-001", "B-XSA-403-1"]


def test_a_case_deviates_for_one_reason() -> None:
    with pytest.raises(AssertionError, match="B-X-001 deviate for two reasons"):
        union(rows(FAIL, "B-X-001", "one", "a.c"), rows(FAIL, "B-X-001", "another", "a.c"))


@pytest.mark.parametrize(
    ("verdict", "allowed"),
    [(FAIL, {"fail"}), (NOT_OFFERED, {"not-offered"}), (EITHER, {"pass", "fail"})],
)
def test_verdicts(verdict: str, allowed: set[str]) -> None:
    assert {each for each in ("pass", "fail", "not-offered") if Deviation(verdict, "", "").allows(each)} == allowed


def test_what_is_printed() -> None:
    one = rows(FAIL, "B-X-001..002", "it is odd", "one.c")
    two = rows(NOT_OFFERED, "B-X-002", "it has none", "two.c")
    assert matrix({"one": one, "two": two}).splitlines() == [
        "| case | one | two |",
        "|---|---|---|",
        "| B-X-001 | fail |  |",
        "| B-X-002 | fail | n/a |",
    ]
    assert "| B-X-001..002 | fail | it is odd | one.c |" in reasons("one", one)
