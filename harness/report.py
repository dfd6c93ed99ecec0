"""What the runs cost, side by side, as a table for people; result.py has the JSON for programs.

The table has a row per figure and a column per mode, so that four modes fit 80 columns. A figure that nobody could
know is n/a.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from xenblk.harness.result import BenchResult

_UNKNOWN: Final = "n/a"
_PLAIN_WIDTH: Final = 80
_WIDTH_MAX: Final = 10_000


class _Row(NamedTuple):
    name: str
    figure: Callable[[BenchResult], float | bool | None]
    decimals: int = 0


def _counter(name: str, counter: str) -> _Row:
    return _Row(name, lambda result: result.counters.get(counter))


def _per_million_requests(cpu_s: float | None, requests: int) -> float | None:
    return None if cpu_s is None or requests == 0 else cpu_s / requests * 1e6


# Each group ends with a line.
_COSTS: Final = (
    (
        _Row("requests", lambda result: result.requests),
        _Row("data, MiB", lambda result: result.bytes / (1 << 20), 1),
    ),
    (
        _counter("pages mapped", "map_pages"),
        _counter("pages unmapped", "unmap_pages"),
        _counter("pages copied", "copy_pages"),
        _counter("map operations", "map_ops"),
        _counter("unmap operations", "unmap_ops"),
        _counter("copy operations", "copy_ops"),
    ),
    (
        _counter("persistent hits", "persistent_hits"),
        _counter("persistent misses", "persistent_misses"),
        _counter("persistent overflows", "persistent_overflow"),
        _counter("persistent purged", "persistent_purged"),
        _counter("persistent current", "persistent_current"),
        _counter("persistent peak", "persistent_peak"),
    ),
    (
        _counter("notifications sent", "notify_sent"),
        _counter("notifications held back", "notify_held"),
        _counter("TLB shootdowns, whole host", "tlb_shootdowns"),
    ),
)


def _speeds(baseline: BenchResult | None) -> tuple[_Row, ...]:
    return (
        _Row("IOPS", lambda result: result.iops),
        *_ratio(baseline),
        _Row("MB/s", lambda result: result.MBps, 1),
        _Row("latency p50, µs", lambda result: result.p50_us, 1),
        _Row("latency p99, µs", lambda result: result.p99_us, 1),
        _Row("frontend CPU, s/M requests", lambda r: _per_million_requests(r.frontend_cpu_s, r.requests), 2),
        _Row("backend CPU, s/M requests", lambda r: _per_million_requests(r.backend_cpu_s, r.requests), 2),
        _Row("data verified", lambda result: result.verified),
    )


def _ratio(baseline: BenchResult | None) -> tuple[_Row, ...]:
    if baseline is None:
        return ()
    return (_Row(f"IOPS / {baseline.mode}", lambda r: r.iops / baseline.iops if baseline.iops else None, 2),)


def compare_table(results: Sequence[BenchResult], *, disk: str) -> Table:
    """One column per mode, which are compared to the first; the caption says what was run."""
    return _table(results, results[0] if results else None, disk)


def result_table(results: Sequence[BenchResult], *, disk: str | None = None) -> Table:
    """As `compare_table`, for runs that are not to be compared."""
    return _table(results, None, disk)


def _table(results: Sequence[BenchResult], baseline: BenchResult | None, disk: str | None) -> Table:
    caption = Text("\n" + _caption(results[0], disk)) if results else None
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, caption=caption, caption_justify="left"
    )
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(Text(result.mode), justify="right", no_wrap=True)
    for group in (*_COSTS, _speeds(baseline)):
        for row in group:
            table.add_row(row.name, *(_shown(row, result) for result in results), end_section=row is group[-1])
    return table


def _shown(row: _Row, result: BenchResult) -> str:
    figure = row.figure(result)
    if figure is None:
        return _UNKNOWN
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.{row.decimals}f}"


def _caption(result: BenchResult, disk: str | None) -> str:
    words = [f"seed {result.seed}", result.rw, f"bs {result.bs}", f"iodepth {result.iodepth}"]
    if result.numjobs != 1:
        words.append(f"numjobs {result.numjobs}")
    if result.engine:
        words.append(f"{result.engine} engine")
    if disk is not None:
        words.append(f"disk {disk}")
    return ", ".join(words)


def print_table(table: Table, file: TextIO | None = None) -> None:
    """Print to `file`, stdout by default: 80 columns and no escapes unless it is a terminal.

    Where the figures need more room than there is, lines get longer; a figure is never cut.
    """
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=_PLAIN_WIDTH, color_system=None)
    needed = Measurement.get(console, console.options.update(max_width=_WIDTH_MAX), table).maximum
    console.width = max(console.width, needed)
    console.print(table)
