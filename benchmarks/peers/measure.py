"""Block devices that another process serves, as others do it: the same loads on all of them, in turns, in one run.

    python benchmarks/peers/measure.py [--rounds N] [--seconds S] [--disk-mib N] [--one-cpu] [--json]

JSON: {"machine": {"cpus", "one_cpu", "python"}, "rounds", "seconds", "rows": [{"load", "peer", "iops", "p50_us",
"p99_us", "cpu_s_per_million"}], "not_measured": [{"name", "why"}]}. Each figure is {"median", "min", "max"} of the
rounds.
"""

import contextlib
import json
import os
import platform
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import click
from clients import Figures, Load, NotMeasured, fill, run
from rich import box
from rich.table import Table
from rich.text import Text
from servers import ALL, PeerError, Server, serving

from xenblk.harness import progress_bar
from xenblk.harness.report import print_table

LOADS: Final = (
    Load("read", "random", 4096, 1),
    Load("read", "random", 4096, 32),
    Load("read", "random", 4096, 128),
    Load("write", "random", 4096, 32),
    Load("read", "sequential", 1 << 16, 32),
    Load("write", "sequential", 1 << 20, 8),
)
FIGURES: Final = ("iops", "p50_us", "p99_us", "cpu_s_per_million")

Found = dict[tuple[Load, str], list[Figures]]


class Session:
    """The servers that run, and what was found of them; a peer that fails is left out from then on, and named."""

    def __init__(self, stack: contextlib.ExitStack, disk_bytes: int, one_cpu: bool) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.client_cpu = cpus[0] if one_cpu else cpus[-1]
        self.servers: list[Server] = []
        self.found: Found = {}
        self.not_measured: list[NotMeasured] = []
        for peer in ALL:
            try:
                server = stack.enter_context(serving(peer, disk_bytes, {cpus[0]}))
                fill(server, self.client_cpu)
                self.servers.append(server)
            except PeerError as error:
                self.not_measured.append(NotMeasured(peer.name, str(error)))

    def measure(self, load: Load, seconds: float, seed: int) -> None:
        """One load on every server."""
        for server in list(self.servers):
            try:
                figures = run(server, load, seconds, self.client_cpu, seed)
                self.found.setdefault((load, server.peer.name), []).append(figures)
            except PeerError as error:
                self.servers.remove(server)
                self.not_measured.append(NotMeasured(server.peer.name, f"{load.name}: {error}"))


def measure(rounds: int, seconds: float, disk_bytes: int, one_cpu: bool) -> Session:
    """All loads on all peers, `rounds` times."""
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar("block devices of others"))
        session = Session(stack, disk_bytes, one_cpu)
        for done in range(rounds * len(LOADS)):
            session.measure(LOADS[done % len(LOADS)], seconds, seed=done + 1)
            progress(done + 1, rounds * len(LOADS))
    return session


def summarise(found: Found) -> list[dict[str, Any]]:
    """A row per load and peer, as the JSON has it, in the order of the loads."""
    rows = []
    for load, name in sorted(found, key=lambda run: LOADS.index(run[0])):
        values = {figure: [getattr(figures, figure) for figures in found[load, name]] for figure in FIGURES}
        spread = {figure: {"median": median(v), "min": min(v), "max": max(v)} for figure, v in values.items()}
        rows.append({"load": load.name, "peer": name, **spread})
    return rows


def table(rows: list[dict[str, Any]], caption: str) -> Table:
    """The rows for people, a section per load."""
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=Text(f"\n{caption}"), caption_justify="left"
    )
    made.add_column("peer", no_wrap=True)
    for header in ("IOPS", "p50, µs", "p99, µs", "CPU, s/M"):
        made.add_column(header, justify="right")
    load = ""
    for row in rows:
        if row["load"] != load:
            load = row["load"]
            made.add_row(Text(load, style="bold"))
        middle = [row[figure]["median"] for figure in FIGURES]
        iops = f"{middle[0]:,.0f} ({row['iops']['min']:,.0f}..{row['iops']['max']:,.0f})"
        made.add_row(f"  {row['peer']}", iops, *(f"{value:,.1f}" for value in middle[1:]))
    return made


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each load is run.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="How long each run takes.")
@click.option("--disk-mib", type=click.IntRange(16), default=1024, show_default=True, help="The size of each disk.")
@click.option("--one-cpu", is_flag=True, help="Server and client on one CPU instead of one each.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def main(rounds: int, seconds: float, disk_mib: int, one_cpu: bool, as_json: bool) -> None:
    """Block devices that another process serves, as others do it: the same loads on all, in turns."""
    cpus = len(os.sched_getaffinity(0))
    one_cpu = one_cpu or cpus == 1
    session = measure(rounds, seconds, disk_mib << 20, one_cpu)
    rows = summarise(session.found)
    if as_json:
        machine = {"cpus": cpus, "one_cpu": one_cpu, "python": platform.python_version()}
        not_measured = [asdict(peer) for peer in session.not_measured]
        result = {"machine": machine, "rounds": rounds, "seconds": seconds, "rows": rows, "not_measured": not_measured}
        click.echo(json.dumps(result, indent=2))
        return
    where = "server and client on one CPU" if one_cpu else "server and client on a CPU each"
    if rows:
        print_table(table(rows, f"median (least..most) of {rounds} round(s) of {seconds:g} s, in turns; {where}"))
    for peer in session.not_measured:
        click.echo(f"not measured: {peer.name}: {peer.why}")


if __name__ == "__main__":
    main()
