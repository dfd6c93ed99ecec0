"""Our xenstored beside the real one: the same load on both, in turns, in one run.

    python benchmarks/xenstore/compare.py [--case NAME]... [--rounds N] [--seconds S] [--json]

JSON: {"machine": {"cpus", "pinned_apart", "python"}, "rounds", "seconds", "cases": [{"case", "connections", "ours",
"real", "ratio"}]}. `ours` and `real` hold, for each figure, {"median", "min", "max"} of the rounds: `per_s`, and for
the case `watch` also `p50_us` and `p99_us`. `ratio` is ours / real, of the medians of p50_us for `watch`, else per_s.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
from rich import box
from rich.table import Table
from rich.text import Text
from servers import NAMES, ROOT, in_turn, machine, machine_text, move_aside, start

from xenblk.harness import progress_bar
from xenblk.harness.report import print_table

CASES: Final = (
    "read",
    "write",
    "transaction",
    "directory10",
    "directory100",
    "read-pipelined",
    "create-remove",
    "watch",
)
CONNECTIONS: Final = (1, 8)
FIGURES: Final = ("per_s", "p50_us", "p99_us")
PATIENCE_S: Final = 60.0

Result = dict[str, Any]


def build_load() -> Path:
    """The load generator, compiled if need be."""
    source = Path(__file__).with_name("load.c")
    program = ROOT / "build" / "benchmarks" / "load"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2"]
        done = subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", program, source], check=False)
        if done.returncode:
            raise click.ClickException(f"{source} could not be compiled")
    return program


def run_load(program: Path, socket: str, case: str, connections: int, seconds: float) -> Result:
    """One run's line of JSON."""
    command = [str(program), socket, case, str(connections), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"no end after {PATIENCE_S:.0f} seconds more than asked for: {command}") from None
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    result: Result = json.loads(done.stdout)
    return result


def measure(cases: Sequence[str], rounds: int, seconds: float) -> dict[tuple[str, int], dict[str, list[Result]]]:
    """All runs: by case and number of connections, then by daemon."""
    program = build_load()
    runs = [(case, connections) for case in cases for connections in CONNECTIONS]
    found: dict[tuple[str, int], dict[str, list[Result]]] = {run: {name: [] for name in NAMES} for run in runs}
    with contextlib.ExitStack() as stack:
        daemons = {name: stack.enter_context(contextlib.closing(start(name))) for name in NAMES}
        progress = stack.enter_context(progress_bar("xenstored, ours and the real one"))
        for round_number in range(rounds):
            for i, run in enumerate(runs):
                for name in in_turn(round_number):
                    found[run][name].append(run_load(program, daemons[name].socket, *run, seconds))
                progress(round_number * len(runs) + i + 1, rounds * len(runs))
    return found


def summary(results: list[Result]) -> Result:
    """Median, least and most of each figure that there is."""
    figures = {figure: [result[figure] for result in results] for figure in FIGURES if figure in results[0]}
    return {figure: {"median": median(v), "min": min(v), "max": max(v)} for figure, v in figures.items()}


def summarise(found: dict[tuple[str, int], dict[str, list[Result]]]) -> list[Result]:
    """One entry per case and number of connections, as the JSON has it."""
    cases = []
    for (case, connections), by_name in found.items():
        entry: Result = {"case": case, "connections": connections}
        entry |= {name: summary(results) for name, results in by_name.items()}
        entry["ratio"] = ratio(entry, "p50_us" if case == "watch" else "per_s")
        cases.append(entry)
    return cases


def ratio(entry: Result, figure: str) -> float:
    """Ours / real, of the medians."""
    return float(entry["ours"][figure]["median"] / entry["real"][figure]["median"])


def table(cases: list[Result], caption: str) -> Table:
    """A row per case and number of connections, two for the latencies of a watch."""
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=Text(f"\n{caption}"), caption_justify="left"
    )
    made.add_column("case", no_wrap=True)
    for header in ("connections", "ours", "real", "ours / real"):
        made.add_column(header, justify="right", no_wrap=True)
    for entry in cases:
        for figure in ("p50_us", "p99_us") if entry["case"] == "watch" else ("per_s",):
            unit = {"per_s": "1/s", "p50_us": "p50, µs", "p99_us": "p99, µs"}[figure]
            made.add_row(
                f"{entry['case']}, {unit}",
                str(entry["connections"]),
                *(shown(entry[name][figure], 0 if figure == "per_s" else 1) for name in NAMES),
                f"{ratio(entry, figure):.2f}",
            )
    return made


def shown(figure: Result, decimals: int) -> str:
    """The median, and in brackets how far the rounds are apart."""
    middle, least, most = (f"{figure[key]:,.{decimals}f}" for key in ("median", "min", "max"))
    return f"{middle} ({least}..{most})"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--case", "only", type=click.Choice(CASES), multiple=True, help="Only these; all are run otherwise.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each case is run.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="How long each run takes.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def main(only: tuple[str, ...], rounds: int, seconds: float, as_json: bool) -> None:
    """Our xenstored beside the real one: the same load on both, in turns."""
    move_aside()
    cases = summarise(measure(only or CASES, rounds, seconds))
    if as_json:
        click.echo(json.dumps({"machine": machine(), "rounds": rounds, "seconds": seconds, "cases": cases}, indent=2))
        return
    caption = f"median (least..most) of {rounds} round(s) of {seconds:g} s, in turns; {machine_text()}"
    print_table(table(cases, caption))


if __name__ == "__main__":
    main()
