"""The rows of compare.py for people: a table, a section for each work and state of the machine, and a plot."""

from pathlib import Path
from typing import Any, Final

import click
from rich import box
from rich.table import Table
from rich.text import Text

from xenblk.harness.report import print_table

Row = dict[str, Any]

_BAR_HEIGHT_IN: Final = 0.28


def show(rows: list[Row], not_measured: list[dict[str, str]], caption: str) -> None:
    """Print the table, and who is missing in it."""
    if rows:
        print_table(_table(rows, caption))
    for peer in not_measured:
        click.echo(f"not measured: {peer['name']}: {peer['why']}")


def _table(rows: list[Row], caption: str) -> Table:
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=Text(f"\n{caption}"), caption_justify="left"
    )
    made.add_column("", no_wrap=True)
    for header in ("kIOPS", "of limit", "p50, µs", "p99, µs", "CPU, s/M", "n"):
        made.add_column(header, justify="right", no_wrap=True)
    section = ""
    for row in rows:
        if section != (section := f"{row['work']}, {row['place']}"):
            made.add_row(Text(section, style="bold"))
        made.add_row(f"  {row['name']}", *_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    iops = row["iops"]
    span = f"{iops['median'] / 1e3:,.1f} ({iops['min'] / 1e3:,.1f}..{iops['max'] / 1e3:,.1f})"
    ratio = "" if row["to_limit"] is None else f"{row['to_limit']:.2f}"
    others = [f"{row[figure]['median']:,.2f}" for figure in ("p50_us", "p99_us", "cpu_s_per_million")]
    busy = "*" if row["foreign_cpus"] > 0.25 else ""
    return [span, ratio, *others, f"{row['n']}{busy}"]


def check_plot() -> None:
    """ClickException if matplotlib is not installed, before anybody waits for figures."""
    try:
        import matplotlib  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise click.ClickException("a plot needs matplotlib, which is not installed: pip install -e .[plot]") from None


def plot(rows: list[Row], path: Path) -> None:
    """Bars of the medians with their spread, a panel for each section."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    sections = list(dict.fromkeys((row["work"], row["place"]) for row in rows))
    height_in = sum(_BAR_HEIGHT_IN * sum((r["work"], r["place"]) == s for r in rows) + 0.9 for s in sections)
    ratios = [sum((r["work"], r["place"]) == s for r in rows) + 2 for s in sections]
    figure, axes = pyplot.subplots(len(sections), figsize=(9, height_in), squeeze=False, height_ratios=ratios)
    for axis, section in zip(axes[:, 0], sections, strict=True):
        _panel(axis, [row for row in rows if (row["work"], row["place"]) == section], ", ".join(section))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, rows: list[Row], title: str) -> None:
    medians = [row["iops"]["median"] / 1e3 for row in rows]
    low = [row["iops"]["min"] / 1e3 for row in rows]
    high = [row["iops"]["max"] / 1e3 for row in rows]
    errors = [
        [middle - least for middle, least in zip(medians, low, strict=True)],
        [most - middle for middle, most in zip(medians, high, strict=True)],
    ]
    colours = {"limit": "tab:gray", "xenblk": "tab:blue"}
    bars = [colours.get(row["name"].partition(":")[0].partition(",")[0], "tab:orange") for row in rows]
    axis.barh(range(len(rows)), medians, xerr=errors, color=bars, capsize=2)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("kIOPS", fontsize=8)
