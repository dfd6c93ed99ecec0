"""`xenblk top`: what every ring of a running host does, again and again."""

import contextlib
import dataclasses
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from xenblk import toolstack
from xenblk.cli.platforms import Xen, xen_option
from xenblk.cli.rates import RateMeter, Rates, RingEnd
from xenblk.vdev import vdev_name
from xenblk.xenbus import XenbusState
from xenblk.xenstore.client import Xenstore

_WIDTH: Final = 100

# A column for each field of Rates.
_HEADERS: Final = ("req/s", "MB/s", "map/s", "unmap/s", "copy/s", "hits/s", "kept", "notify/s")


@click.command()
@xen_option
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.01, 86400),
    default=1.0,
    show_default=True,
    help="Seconds from one look to the next.",
)
@click.option("--once", is_flag=True, help="Look for one interval, then end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line per interval.")
def top(xen: Xen, interval_s: float, once: bool, as_json: bool) -> None:
    """Show what every ring does, one row per ring and end: requests and megabytes per second, pages mapped, unmapped
    and copied, persistent hits, grants kept now, notifications sent.

    q or Ctrl-C ends it. Where the output is no terminal, each look is a table of its own.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        xen.store() as store,
        _keys() as pause,
        _display(as_json, once) as show,
    ):
        meter = RateMeter(xen.counters_dir)
        meter.look(_disks(store), time.monotonic())
        while pause(interval_s):
            show(meter.look(_disks(store), time.monotonic()))
            if once:
                return


def _disks(store: Xenstore) -> list[tuple[toolstack.DiskInfo, int]]:
    """The disks that are served now, and how many rings they have."""
    return [
        (disk, _nr_queues(store, disk))
        for disk in toolstack.disks(store)
        if disk.backend_state is XenbusState.CONNECTED
    ]


def _nr_queues(store: Xenstore, disk: toolstack.DiskInfo) -> int:
    text = store.read(f"{toolstack.frontend_path(disk.domid, disk.handle)}/multi-queue-num-queues", "1")
    return int(text) if text.isdecimal() and len(text) < 10 else 1


# What is shown

Show = Callable[[dict[RingEnd, Rates]], None]


@contextlib.contextmanager
def _display(as_json: bool, once: bool) -> Iterator[Show]:
    console = Console()
    if as_json:
        yield lambda rings: click.echo(_json(rings))
    elif once or not console.is_terminal:
        plain = Console(width=None if console.is_terminal else _WIDTH)
        yield lambda rings: plain.print(_table(rings))
    else:
        with Live(console=console, auto_refresh=False) as live:
            live.update(_table({}), refresh=True)
            yield lambda rings: live.update(_table(rings), refresh=True)


def _json(rings: dict[RingEnd, Rates]) -> str:
    return json.dumps(
        {
            "rings": [
                {
                    "domid": ring.domid,
                    "vdev": vdev_name(ring.handle),
                    "queue": ring.queue,
                    "end": ring.end,
                    **dataclasses.asdict(rates),
                }
                for ring, rates in rings.items()
            ]
        }
    )


def _table(rings: dict[RingEnd, Rates]) -> Table:
    table = Table(box=None, header_style="", pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("domid", "vdev", "queue", "end"):
        table.add_column(column, no_wrap=True)
    for column in _HEADERS:
        table.add_column(column, justify="right", no_wrap=True, min_width=6 if "/" in column else 4)
    for ring, rates in rings.items():
        figures = map(_shown, dataclasses.astuple(rates))
        table.add_row(str(ring.domid), vdev_name(ring.handle), str(ring.queue), ring.end, *figures)
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


# The keyboard


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits so many seconds, and says whether to go on: nobody typed q."""
    if not sys.stdin.isatty():
        yield _wait
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield lambda seconds: _wait_for_q(fd, seconds)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _wait_for_q(fd: int, seconds: float) -> bool:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([fd], [], [], left_s)[0]:
            keys = os.read(fd, 64)
            if not keys or b"q" in keys.lower():
                return False
    return True
