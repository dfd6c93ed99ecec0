"""What a double does not pass in the conformance suite, and why its original would not either."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Final

FAIL: Final = "fail"
NOT_OFFERED: Final = "not-offered"
NOT_RUN: Final = "not run"
EITHER: Final = "pass or fail"
"""It hangs on who is first, and so would the original."""

_RANGE: Final = re.compile(r"(.*?)([0-9]+)\.\.([0-9]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Deviation:
    """How a case ends that is not passed; `source` is the original's function or file that makes it so."""

    verdict: str
    why: str
    source: str

    def allows(self, verdict: str) -> bool:
        """Whether the case may end so."""
        return verdict in self.verdict.split(" or ")


Deviations = Mapping[str, Deviation]
"""By case id, in the order of the cases."""


def rows(verdict: str, cases: str, why: str, source: str) -> dict[str, Deviation]:
    """A deviation for each of the cases: ids, or ranges of them such as B-CHECK-001..004, with blanks between them."""
    return dict.fromkeys(_expand(cases), Deviation(verdict, why, source))


def union(*tables: Deviations) -> Deviations:
    """All rows; each case may be in one of the tables only."""
    ids = [case for table in tables for case in table]
    twice = sorted({case for case in ids if ids.count(case) > 1})
    assert not twice, f"{', '.join(twice)} deviate for two reasons"
    return {case: table[case] for table in tables for case in table}


def _expand(cases: str) -> Iterable[str]:
    for word in cases.split():
        match = _RANGE.fullmatch(word)
        if match is None:
            yield word
        else:
            stem, first, last = match.groups()
            yield from (f"{stem}{number:0{len(first)}}" for number in range(int(first), int(last) + 1))


def matrix(tables: Mapping[str, Deviations]) -> str:
    """A row per case that any of them does not pass, a column for each."""
    marks = {FAIL: "fail", NOT_OFFERED: "n/a", EITHER: "either", NOT_RUN: "not run"}
    lines = [f"| case | {' | '.join(tables)} |", f"|---|{'---|' * len(tables)}"]
    for case in sorted({case for table in tables.values() for case in table}):
        cells = [marks[table[case].verdict] if case in table else "" for table in tables.values()]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def reasons(name: str, table: Deviations) -> str:
    """Each reason once, with its cases and its source."""
    by_reason: dict[Deviation, list[str]] = {}
    for case, deviation in table.items():
        by_reason.setdefault(deviation, []).append(case)
    if not table:
        return f"### {name}\n\nIt passes all.\n"
    lines = [f"### {name}", "", "| cases | verdict | why | where |", "|---|---|---|---|"]
    lines += [f"| {', '.join(shorten(ids))} | {d.verdict} | {d.why} | {d.source} |" for d, ids in by_reason.items()]
    return "\n".join(lines) + "\n"


def shorten(cases: Iterable[str]) -> list[str]:
    """Ids with runs of consecutive ones as one word: B-CHECK-001..004."""
    found: list[tuple[str, int, int, int]] = []
    alone = []
    for case in sorted(cases):
        match = re.fullmatch(r"(.*-)([0-9]{3})", case)
        if match is None:
            alone.append(case)
            continue
        stem, number = match[1], int(match[2])
        if found and found[-1][0] == stem and found[-1][2] == number - 1:
            found[-1] = (stem, found[-1][1], number, 3)
        else:
            found.append((stem, number, number, 3))
    runs = [f"{stem}{a:03}" if a == b else f"{stem}{a:03}..{b:03}" for stem, a, b, _ in found]
    return runs + alone


def document(chapters: Mapping[str, Mapping[str, Deviations]]) -> str:
    """A chapter for each end: which cases its doubles do not pass, and why."""
    parts = []
    for title, tables in chapters.items():
        parts += [f"## {title}\n", matrix(tables), *(reasons(name, table) for name, table in tables.items())]
    return "\n".join(parts)
