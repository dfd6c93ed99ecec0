"""What a run of conformance cases found: a table for people, JSON for programs."""

import collections
import json
from collections.abc import Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from xenblk.harness.conform.case import Case, Outcome, Verdict

_STYLES: Final = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.NOT_OFFERED: "yellow"}


def counts(outcomes: Sequence[Outcome[Any]]) -> dict[Verdict, int]:
    """How many cases had each verdict."""
    found = collections.Counter(outcome.verdict for outcome in outcomes)
    return {verdict: found[verdict] for verdict in Verdict}


def summary(outcomes: Sequence[Outcome[Any]]) -> str:
    """One sentence."""
    parts = ", ".join(f"{count} {verdict.value}" for verdict, count in counts(outcomes).items())
    return f"{len(outcomes)} cases: {parts}"


def outcomes_table(outcomes: Sequence[Outcome[Any]]) -> Table:
    """A row per case."""
    table = Table(box=box.SIMPLE, caption=summary(outcomes), caption_justify="left")
    for name in ("case", "verdict", "title"):
        table.add_column(name, no_wrap=name != "title")
    for outcome in outcomes:
        title = Text(outcome.case.title)
        if outcome.detail and outcome.verdict is not Verdict.PASS:
            title.append(f"\n{outcome.detail}", style="dim")
        table.add_row(outcome.case.id, Text(outcome.verdict.value, style=_STYLES[outcome.verdict]), title)
    return table


def cases_table(cases: Sequence[Case[Any]]) -> Table:
    """A row per case that could be run."""
    table = Table(box=box.SIMPLE, caption=f"{len(cases)} cases", caption_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("title")
    table.add_column("source")
    for case in cases:
        table.add_row(case.id, Text(case.title), Text(case.source))
    return table


def outcomes_json(outcomes: Sequence[Outcome[Any]]) -> str:
    """`{"cases": [{"id", "title", "source", "verdict", "detail"}]}`."""
    return json.dumps({"cases": [outcome.as_dict() for outcome in outcomes]}, indent=1)
