"""Cases are told apart by id, end in one of three verdicts, and never hurt each other."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from xenblk.errors import UsageError
from xenblk.harness.conform.case import Case, Registry, Verdict, expect, require, run_cases
from xenblk.harness.conform.report import counts, outcomes_json, summary


@pytest.fixture
def registry() -> Registry[int]:
    """One case of each kind."""
    cases: Registry[int] = Registry()

    @cases.case("B-ONE-001", "passes", "here")
    def passes(subject: int) -> str:
        return f"subject {subject}"

    @cases.case("B-ONE-002", "fails", "here")
    def fails(subject: int) -> None:
        expect(subject < 0, f"{subject} is not negative")

    @cases.case("B-TWO-001", "is not offered", "here")
    def not_offered(_subject: int) -> None:
        require(False, "the node is missing")

    @cases.case("B-TWO-002", "has a bug", "here")
    def bug(_subject: int) -> None:
        raise KeyError("bug")

    return cases


def test_verdicts(registry: Registry[int]) -> None:
    alive = []

    @contextlib.contextmanager
    def subject(case: Case[int]) -> Iterator[int]:
        alive.append(case.id)
        yield len(alive)
        alive.append("end")

    outcomes = list(run_cases(registry.select(), subject))
    assert [(o.verdict, o.detail) for o in outcomes] == [
        (Verdict.PASS, "subject 1"),
        (Verdict.FAIL, "3 is not negative"),
        (Verdict.NOT_OFFERED, "the node is missing"),
        (Verdict.FAIL, "KeyError: 'bug'"),
    ]
    assert alive == ["B-ONE-001", "end", "B-ONE-002", "B-TWO-001", "B-TWO-002"]
    assert counts(outcomes) == {Verdict.PASS: 1, Verdict.FAIL: 2, Verdict.NOT_OFFERED: 1}
    assert summary(outcomes) == "4 cases: 1 pass, 2 fail, 1 not-offered"
    (first, *_) = json.loads(outcomes_json(outcomes))["cases"]
    assert first == {
        "id": "B-ONE-001",
        "title": "passes",
        "source": "here",
        "verdict": "pass",
        "detail": "subject 1",
    }


def test_a_subject_that_cannot_be_made_is_the_failure_of_its_case(registry: Registry[int]) -> None:
    @contextlib.contextmanager
    def subject(case: Case[int]) -> Iterator[int]:
        if case.id == "B-ONE-001":
            raise OSError("no device")
        yield 1

    verdicts = [o.verdict for o in run_cases(registry.select(["B-ONE-001", "B-TWO-001"]), subject)]
    assert verdicts == [Verdict.FAIL, Verdict.NOT_OFFERED]


def test_selection(registry: Registry[int]) -> None:
    assert [case.id for case in registry.select(["B-TWO-*", "B-ONE-002"])] == ["B-ONE-002", "B-TWO-001", "B-TWO-002"]
    with pytest.raises(UsageError, match="no case is called 'B-THREE-\\*'"):
        registry.select(["B-THREE-*"])


def test_an_id_is_taken_once(registry: Registry[int]) -> None:
    with pytest.raises(UsageError, match="B-ONE-001 is taken"):
        registry.case("B-ONE-001", "again", "here")(lambda _subject: None)
