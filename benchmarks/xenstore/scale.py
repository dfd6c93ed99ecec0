"""How our xenstored and the real one grow with the number of domains; scenario.py says what is timed.

    python benchmarks/xenstore/scale.py [--sizes 125,250,500,1000] [--operations N] [--rounds N] [--json] [--plot FILE]

Growth is the time relative to that of the smallest n, after both were divided by n log2 n; what is done once, and not
once per domain, is divided by log2 n, as if each of the n domains did it. 1 means that n log n is what it costs.

JSON: {"machine": {"cpus", "pinned_apart", "python"}, "rounds", "operations", "rows": [{"domains", "measure", "ours_s",
"real_s", "ours_growth", "real_growth", "ratio"}]}; times are medians of the rounds, `ratio` is ours / real.
"""

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import plot
import scenario
from rich import box
from rich.table import Table
from rich.text import Text
from servers import NAMES, in_turn, machine, machine_text, move_aside, start

from xenblk.harness import progress_bar
from xenblk.harness.report import print_table

SIZE_MAX: Final = 1000
"""The names of more domains would not fit in one answer."""

WHOLE_STORE: Final = ("fill", "walk", "xenstore_ls")
LABELS: Final = {
    "fill": "fill, ms",
    "walk": "walk, ms",
    "xenstore_ls": "xenstore-ls, ms",
    "transaction": "transaction, µs",
    "event": "event, µs",
}

Times = dict[tuple[int, str], dict[str, list[float]]]


def measure(sizes: list[int], operations: int, rounds: int, progress: Callable[[int, int], None]) -> Times:
    """Seconds by number of domains and measure, then by daemon; each run has a daemon of its own."""
    found: Times = {(n, what): {name: [] for name in NAMES} for n in sizes for what in LABELS}
    for round_number in range(rounds):
        for i, n in enumerate(sizes):
            for name in in_turn(round_number):
                with contextlib.closing(start(name)) as daemon:
                    for what, seconds in scenario.run(daemon.socket, n, operations).items():
                        found[n, what][name].append(seconds)
            progress(round_number * len(sizes) + i + 1, rounds * len(sizes))
    return found


def make_rows(found: Times, sizes: list[int]) -> list[dict[str, Any]]:
    """One entry per number of domains and measure, as the JSON has it."""
    rows = []
    for (n, what), by_name in found.items():
        row: dict[str, Any] = {"domains": n, "measure": what}
        for name, times in by_name.items():
            row[f"{name}_s"] = median(times)
            row[f"{name}_growth"] = relative(what, n, median(times)) / relative(
                what, sizes[0], median(found[sizes[0], what][name])
            )
        row["ratio"] = row["ours_s"] / row["real_s"]
        rows.append(row)
    return rows


def relative(what: str, n: int, seconds: float) -> float:
    """A time divided by what may grow."""
    return seconds / ((n if what in WHOLE_STORE else 1) * math.log2(n))


def table(rows: list[dict[str, Any]], caption: str) -> Table:
    """A group of rows per measure, so that each curve can be read downwards."""
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=Text(f"\n{caption}"), caption_justify="left"
    )
    made.add_column("measure", no_wrap=True)
    for header in ("domains", "ours", "growth", "real", "growth", "ours / real"):
        made.add_column(header, justify="right", no_wrap=True)
    for what, label in LABELS.items():
        group = [row for row in rows if row["measure"] == what]
        units_per_s = 1e3 if what in WHOLE_STORE else 1e6
        for row in group:
            cells = [str(row["domains"])]
            for name in NAMES:
                cells += [f"{row[f'{name}_s'] * units_per_s:,.1f}", f"{row[f'{name}_growth']:.2f}"]
            made.add_row(label, *cells, f"{row['ratio']:.2f}", end_section=row is group[-1])
    return made


def _parse_sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"numbers of domains are written 125,250, not {value}") from None
    if sizes[0] < 2 or sizes[-1] > SIZE_MAX:
        raise click.BadParameter(f"2 to {SIZE_MAX} domains can be measured, not {value}")
    return sizes


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sizes", default="125,250,500,1000", show_default=True, callback=_parse_sizes, help="Domains.")
@click.option("--operations", type=click.IntRange(1), default=200, show_default=True, help="Transactions and events.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often all is done.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw a PNG as well.")
def main(sizes: list[int], operations: int, rounds: int, as_json: bool, plot_file: Path | None) -> None:
    """How our xenstored and the real one grow with the number of domains."""
    if plot_file:
        plot.check()
    move_aside()
    with progress_bar("xenstored, ours and the real one") as progress:
        rows = make_rows(measure(sizes, operations, rounds, progress), sizes)
    if as_json:
        settings = {"machine": machine(), "rounds": rounds, "operations": operations}
        click.echo(json.dumps({**settings, "rows": rows}, indent=2))
    else:
        caption = (
            f"growth: time / (n log2 n), or / log2 n where it is done once, relative to {sizes[0]} domains\n"
            f"median of {rounds} round(s), {operations} transactions and events each; {machine_text()}"
        )
        print_table(table(rows, caption))
    if plot_file:
        plot.draw(rows, plot_file)


if __name__ == "__main__":
    main()
