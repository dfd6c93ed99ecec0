"""What one and two threads of a backend cost each other: disks under load at once, in one backend process.

    python benchmarks/engine/threads.py [--rounds N] [--seconds S] [--disk-mib N] [--json]

Each disk has a ring, and each ring a thread of the backend. Unmapping a page interrupts every CPU on which another
thread of the process runs (a TLB shootdown); a page that stays mapped does not.

JSON: {"machine": {...}, "rows": [{"mode", "threads", "iops", "backend_cpu_us", "shootdowns", "to_map"}]}; the figures
are {"median", "min", "max"}, per I/O but for iops, which is that of all disks.
"""

import contextlib
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

import click
from ours import MAP, PERSISTENT, Mode
from rich import box
from rich.table import Table

from xenblk.abi import DOM0, Domid
from xenblk.blkfront import Blkfront
from xenblk.counters import tlb_shootdowns
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.harness import Job, progress_bar, run_job
from xenblk.harness.cpu import process_cpu_s
from xenblk.harness.report import print_table
from xenblk.processes import Command, HostProcess
from xenblk.toolstack import attach
from xenblk.vdev import parse_vdev
from xenblk.xenstore.client import Xenstore

Row = dict[str, Any]
FIGURES: Final = ("iops", "backend_cpu_us", "shootdowns")
_XVDA: Final = parse_vdev("xvda")


class Disks:
    """A backend process and as many disks, each connected to a domain of this process."""

    def __init__(self, stack: contextlib.ExitStack, mode: Mode, count: int, disk_mib: int) -> None:
        host = stack.enter_context(HostProcess())
        directory = RunDirectory(host.run_dir)
        self.backend = stack.enter_context(Command(["backend", "--run-dir", str(host.run_dir), *mode.backend]))
        self.backend.readline()
        self.frontends: list[Blkfront] = []
        for _ in range(count):
            control = ControlClient(directory.control)
            domid = Domid(control.call("create", domid=None)[0]["domid"])
            control.close()
            with Xenstore(str(directory.xenstore(DOM0))) as store:
                attach(store, domid, _XVDA, f"memory:{disk_mib}M", "w")
            guest = EmulatedPlatform(host.run_dir, domid)
            stack.callback(guest.close)
            frontend = Blkfront(guest, _XVDA, feature_persistent=mode.persistent)
            stack.callback(frontend.close)
            frontend.connect()
            run_job(frontend, Job("write", 4096, 32, 1, io_size=frontend.size, verify=False))
            self.frontends.append(frontend)


def measure(mode: Mode, count: int, seconds: float, disk_mib: int) -> dict[str, float]:
    """One round: 4 KiB random reads at depth 32 on all disks at once."""
    with contextlib.ExitStack() as stack:
        disks = Disks(stack, mode, count, disk_mib)
        pool = stack.enter_context(ThreadPoolExecutor(count))
        before_s, before = process_cpu_s(disks.backend.pid), tlb_shootdowns()
        job = Job("randread", 4096, 32, 1, runtime_s=seconds, verify=False)
        found = list(pool.map(lambda frontend: run_job(frontend, job), disks.frontends))
        after_s, after = process_cpu_s(disks.backend.pid), tlb_shootdowns()
    ios = sum(result.ios for result in found)
    assert before_s is not None
    assert after_s is not None
    shootdowns = float("nan") if before is None or after is None else (after - before) / ios
    return {
        "iops": sum(result.iops for result in found),
        "backend_cpu_us": (after_s - before_s) / ios * 1e6,
        "shootdowns": shootdowns,
    }


def rows_of(found: dict[tuple[str, int], list[dict[str, float]]]) -> list[Row]:
    """As the JSON has them."""
    rows: list[Row] = []
    for (mode, count), rounds in found.items():
        values = {figure: [one[figure] for one in rounds] for figure in FIGURES}
        spread = {figure: {"median": median(v), "min": min(v), "max": max(v)} for figure, v in values.items()}
        rows.append({"mode": mode, "threads": count, **spread})
    for row in rows:
        mapped = next(other for other in rows if other["mode"] == MAP.name and other["threads"] == row["threads"])
        row["to_map"] = row["iops"]["median"] / mapped["iops"]["median"]
    return rows


def _table(rows: list[Row]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("mode")
    for header in ("threads", "kIOPS", "of map/unmap", "backend CPU, µs", "TLB shootdowns"):
        made.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        iops = row["iops"]
        span = f"{iops['median'] / 1e3:,.1f} ({iops['min'] / 1e3:,.1f}..{iops['max'] / 1e3:,.1f})"
        per_io = [f"{row[figure]['median']:,.2f}" for figure in ("backend_cpu_us", "shootdowns")]
        made.add_row(row["mode"], str(row["threads"]), span, f"{row['to_map']:.1f}", *per_io)
    return made


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each is run.")
@click.option("--seconds", type=click.FloatRange(0.01), default=0.5, show_default=True, help="How long each run takes.")
@click.option("--disk-mib", type=click.IntRange(1), default=64, show_default=True, help="The size of each disk.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def main(rounds: int, seconds: float, disk_mib: int, as_json: bool) -> None:
    """What one and two threads of a backend cost each other."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    kinds = [(mode, count) for mode in (PERSISTENT, MAP) for count in (1, 2)]
    with progress_bar("threads") as progress:
        for done in range(rounds * len(kinds)):
            mode, count = kinds[done % len(kinds)]
            found.setdefault((mode.name, count), []).append(measure(mode, count, seconds, disk_mib))
            progress(done + 1, rounds * len(kinds))
    rows = rows_of(found)
    if as_json:
        machine = {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        click.echo(json.dumps({"machine": machine, "rounds": rounds, "seconds": seconds, "rows": rows}, indent=2))
    else:
        print_table(_table(rows))


if __name__ == "__main__":
    main()
