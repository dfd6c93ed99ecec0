"""`xenblk conform`: whether a driver keeps to blkif, in numbered cases that cite their sources."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from xenblk.errors import UsageError
from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.conform.backend.run import DISK, backend_names, run_backend_cases, serving, serving_really
from xenblk.harness.conform.case import Case, Outcome, Registry, Verdict
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.conform.frontend import FRONTEND
from xenblk.harness.conform.frontend.run import run_frontend_cases
from xenblk.harness.conform.frontend.subject import frontend_names
from xenblk.harness.conform.real import RealXen
from xenblk.harness.conform.report import cases_table, outcomes_json, outcomes_table
from xenblk.harness.conform.xen import Xen
from xenblk.harness.report import print_table
from xenblk.harness.wire.deadline import DEADLINE_S, patience
from xenblk.toolstack import BACKEND_TYPE


@click.command()
@click.option("--backend", metavar="NAME", help=f"Test a backend: {', '.join(backend_names())}.")
@click.option("--frontend", metavar="NAME", help=f"Test a frontend: {', '.join(frontend_names())}.")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Test whatever backend serves the disks of domain 0 of the emulated Xen there.",
)
@click.option(
    "--platform",
    type=click.Choice(("emulated", "xen")),
    default="emulated",
    show_default=True,
    help="xen: test a backend of this machine's own Xen, from its domain 0: ours, or whoever serves --backend-type.",
)
@click.option(
    "--backend-type", default=BACKEND_TYPE, show_default=True, help="xen: the folder of domain 0's backend/ it serves."
)
@click.option(
    "--backend-node",
    "backend_nodes",
    metavar="KEY=VALUE",
    multiple=True,
    help="A node more that a toolstack would give that backend, such as sector-size=4096; repeatable.",
)
@click.option("--loop", is_flag=True, help="xen: disks are files, and given as loop devices, as xen-blkback has them.")
@click.option(
    "--timeout-s", type=float, default=DEADLINE_S, show_default=True, help="How long the backend may take for anything."
)
@click.option("--disk", default=DISK, show_default=True, help="What the tested backend is given as its disk.")
@click.option("--case", "patterns", metavar="PATTERN", multiple=True, help="Only cases such as 'B-READ-*'; repeatable.")
@click.option("--list", "list_only", is_flag=True, help="Show the cases, run none.")
@click.option(
    "--json", "as_json", is_flag=True, help='JSON: {"cases": [{"id", "title", "source", "verdict", "detail"}]}.'
)
def conform(
    backend: str | None,
    frontend: str | None,
    run_dir: Path | None,
    platform: str,
    backend_type: str,
    backend_nodes: tuple[str, ...],
    loop: bool,
    timeout_s: float,
    disk: str,
    patterns: tuple[str, ...],
    list_only: bool,
    as_json: bool,
) -> None:
    """Run the conformance cases for blkif against a backend or a frontend.

    Each case ends in pass, fail, or not-offered: the tested end does not offer what it is about. The exit status is 1
    if a case failed.
    """
    tested = [one for one in (backend, frontend, run_dir) if one is not None]
    really = platform == "xen"
    if really and (frontend is not None or run_dir is not None):
        raise UsageError("with --platform xen a backend is tested: --frontend and --run-dir are of emulated ones")
    if len(tested) != 1 and not really and not (list_only and not tested):
        raise UsageError("say who is tested: one of --backend, --frontend and --run-dir, or --platform xen")
    nodes = _nodes(backend_nodes)
    cases = _registry(backends=frontend is None, frontends=frontend is not None or not tested).select(patterns)
    if list_only:
        print_table(cases_table(cases))
        return
    with contextlib.ExitStack() as stack:
        if frontend is not None:
            running: Iterator[Outcome[Any]] = run_frontend_cases(frontend, cases)
        else:
            if really and backend is not None:
                stack.enter_context(serving_really(backend, backend_type))
            if really:
                xen: Xen = RealXen(backend_type, nodes, loop=loop)
            else:
                where = run_dir if run_dir is not None else stack.enter_context(serving(str(backend)))
                xen = EmulatedXen(where, nodes=nodes)
            stack.enter_context(patience(timeout_s))
            running = run_backend_cases(xen, cases, disk)
        outcomes = list(_shown(running, cases, quiet=as_json))
    if as_json:
        click.echo(outcomes_json(outcomes))
    else:
        print_table(outcomes_table(outcomes))
    if any(outcome.verdict is Verdict.FAIL for outcome in outcomes):
        sys.exit(1)


def _nodes(words: Sequence[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"a node is given as KEY=VALUE, not {word!r}")
    return dict((key, value) for key, _, value in (word.partition("=") for word in words))


def _registry(*, backends: bool, frontends: bool) -> Registry[Any]:
    """The cases of either end, or of both."""
    chosen: Registry[Any] = Registry()
    cases: list[Case[Any]] = []
    if backends:
        cases += BACKEND.select()
    if frontends:
        cases += FRONTEND.select()
    for case in cases:
        chosen.add(case)
    return chosen


def _shown(outcomes: Iterator[Outcome[Any]], cases: Sequence[Case[Any]], quiet: bool) -> Iterator[Outcome[Any]]:
    """Pass outcomes on, with a line on standard error that says how far they are."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(cases[0].id if cases else "", total=len(cases))
        for outcome in outcomes:
            bar.update(task, advance=1, description=f"{outcome.case.id} {outcome.verdict.value}")
            yield outcome
