"""A conformance case: a small function with a stable id, a title and the source of its rule; and running many of them.

A case gets a *subject*, made for it alone: what it needs to reach whoever is tested. It ends in one of three verdicts:

    pass           it returned; a text that it returns is the detail
    fail           `expect` or anything else raised, deadlines among it; the sentence is the detail
    not-offered    `require` raised NotOfferedError: the tested end does not offer what the case is about
"""

import contextlib
import dataclasses
import enum
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, NoReturn, TypeVar

from xenblk.errors import UsageError, XenblkError

T = TypeVar("T")

Body = Callable[[T], str | None]
"""What a case does; the text that it may return is said beside its verdict."""


class Verdict(enum.StrEnum):
    """How a case ended."""

    PASS = "pass"
    FAIL = "fail"
    NOT_OFFERED = "not-offered"


class CaseFailedError(XenblkError):
    """The tested end broke the rule; the message says how."""


class NotOfferedError(XenblkError):
    """The tested end does not offer what the case is about; the message says where that was seen."""


def fail(sentence: str) -> NoReturn:
    """The case fails, for this reason."""
    raise CaseFailedError(sentence)


def expect(truth: object, sentence: str) -> None:
    """The case fails unless `truth`."""
    if not truth:
        fail(sentence)


def require(offered: object, sentence: str) -> None:
    """The case is about something that is not offered unless `offered`."""
    if not offered:
        raise NotOfferedError(sentence)


@dataclasses.dataclass(frozen=True, slots=True)
class Case(Generic[T]):
    """One rule: `source` is the header, document section, advisory or function that has it."""

    id: str
    title: str
    source: str
    body: Body[T]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How one case ended, and why."""

    case: Case[T]
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, str]:
        """What a report has of it."""
        return {
            "id": self.case.id,
            "title": self.case.title,
            "source": self.case.source,
            "verdict": self.verdict.value,
            "detail": self.detail,
        }


class Registry(Generic[T]):
    """The cases of one end, in the order in which they were registered."""

    def __init__(self) -> None:
        self._cases: Final[dict[str, Case[T]]] = {}

    def case(self, case_id: str, title: str, source: str) -> Callable[[Body[T]], Body[T]]:
        """Decorate a case. UsageError for an id that is taken."""

        def register(body: Body[T]) -> Body[T]:
            self.add(Case(case_id, title, source, body))
            return body

        return register

    def add(self, case: Case[T]) -> None:
        """Register a case that a loop made. UsageError for an id that is taken."""
        if case.id in self._cases:
            raise UsageError(f"a case's id is its own, and {case.id} is taken")
        self._cases[case.id] = case

    def __len__(self) -> int:
        return len(self._cases)

    def select(self, patterns: Iterable[str] = ()) -> list[Case[T]]:
        """The cases whose id matches one of the patterns, all if there are none. UsageError if a pattern has none."""
        wanted = list(patterns)
        for pattern in wanted:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in self._cases):
                raise UsageError(f"no case is called {pattern!r}: see --list")
        return [
            case
            for name, case in self._cases.items()
            if not wanted or any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        ]


def run_cases(
    cases: Iterable[Case[T]], subject: Callable[[Case[T]], contextlib.AbstractContextManager[T]]
) -> Iterator[Outcome[T]]:
    """Run the cases one after the other, each with a subject of its own; whatever one raises is its own failure.

    KeyboardInterrupt and the like are the caller's.
    """
    for case in cases:
        yield _run(case, subject)


def _run(case: Case[T], subject: Callable[[Case[T]], contextlib.AbstractContextManager[T]]) -> Outcome[T]:
    try:
        with subject(case) as made:
            detail = case.body(made) or ""
    except NotOfferedError as e:
        return Outcome(case, Verdict.NOT_OFFERED, str(e))
    except XenblkError as e:
        return Outcome(case, Verdict.FAIL, str(e))
    except Exception as e:
        return Outcome(case, Verdict.FAIL, f"{type(e).__name__}: {e}")
    return Outcome(case, Verdict.PASS, detail)
