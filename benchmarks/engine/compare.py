"""Blocks a second through the limit, xenblk's modes and others, in turns, in one run.

    python benchmarks/engine/compare.py [--peers] [--place two|one] [--work W]... [--only WORD]... [--rounds N]
                                        [--seconds S] [--disk-mib N] [--json] [--plot FILE]

Every measurement has the cache line's round trip before and after it, and what others took of the CPUs beside it. One
during which others took more than --foreign-max CPUs, or the CPUs moved, is left out of the medians as long as others
of its row are not.

JSON: {"machine": {...}, "rows": [{"work", "place", "name", "iops", "p50_us", "p99_us", "cpu_s_per_million", "to_limit",
"n", "left_out", "cacheline_ns"}], "not_measured": [{"name", "why"}]}; a figure is {"median", "min", "max"}.
"""

import contextlib
import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
from contenders import Contender, Entry, Place, entries
from machine import Foreign
from ours import Work
from placement import MOVED, places
from programs import Figures, cacheline_ns
from servers import PeerError
from table import check_plot, plot, show

from xenblk.errors import XenblkError
from xenblk.harness import progress_bar

WORKS: Final = {
    f"{name}-{depth}": Work(op, order, block_bytes, depth)
    for name, op, order, block_bytes in (
        ("randread-4k", "read", "random", 4096),
        ("randwrite-4k", "write", "random", 4096),
        ("read-64k", "read", "sequential", 1 << 16),
        ("read-1m", "read", "sequential", 1 << 20),
    )
    for depth in (1, 32, 128)
}
DEFAULT: Final = ("randread-4k-1", "randread-4k-32", "randwrite-4k-32", "randread-4k-128", "read-64k-32", "read-1m-32")
FIGURES: Final = ("iops", "p50_us", "p99_us", "cpu_s_per_million")


@dataclass(frozen=True)
class Measured:
    """One round of one contender."""

    work: str
    place: Place
    figures: Figures
    foreign_cpus: float


class Session:
    """What was started in one place, and what was found; a contender that fails is named and left out from then on."""

    def __init__(self, found: dict[str, Entry]) -> None:
        self.contenders: list[Contender] = []
        self.measured: list[Measured] = []
        self.not_measured: dict[str, str] = {}
        for name, start in found.items():
            try:
                self.contenders.append(start())
            except (PeerError, XenblkError, OSError, click.ClickException) as error:
                self.not_measured[name] = str(error)

    def prepare(self, work: Work) -> None:
        """Before the rounds of a work."""
        self._ready: list[Contender] = []
        for contender in list(self.contenders):
            self._try(contender, lambda contender=contender: self._prepare(contender, work))

    def _prepare(self, contender: Contender, work: Work) -> None:
        if contender.prepare(work):
            self._ready.append(contender)

    def round(self, name: str, work: Work, place: Place, seconds: float) -> None:
        """Every contender that can do this work, once."""
        for contender in [ready for ready in self._ready if ready in self.contenders]:
            self._try(contender, lambda contender=contender: self._one(contender, name, work, place, seconds))

    def _try(self, contender: Contender, call: Any) -> None:
        try:
            call()
        except (PeerError, XenblkError, OSError, click.ClickException) as error:
            self.contenders.remove(contender)
            self.not_measured[contender.name] = str(getattr(error, "message", error))

    def _one(self, contender: Contender, name: str, work: Work, place: Place, seconds: float) -> None:
        before = cacheline_ns(place.cpus)
        foreign = Foreign()
        figures = contender.run(work, seconds)
        foreign_cpus = foreign.cpus()
        after = cacheline_ns(place.cpus)
        figures = replace(figures, cacheline_ns_before=before, cacheline_ns_after=after)
        self.measured.append(Measured(name, place, figures, foreign_cpus))


def summarise(measured: list[Measured], foreign_max: float) -> list[dict[str, Any]]:
    """Rows as the JSON has them: one for each work, contender and state of the machine."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for one, where in zip(measured, places([m.figures for m in measured]), strict=True):
        groups.setdefault((one.work, where, one.figures.name), []).append(one)
    rows = [_row(work, where, name, runs, foreign_max) for (work, where, name), runs in groups.items()]
    for row in rows:
        limits = [
            other["iops"]["median"]
            for other in rows
            if (other["work"], other["place"]) == (row["work"], row["place"]) and other["name"].startswith("limit: 2")
        ]
        row["to_limit"] = row["iops"]["median"] / max(limits) if limits and row["place"] != MOVED else None
    return sorted(rows, key=lambda row: (list(WORKS).index(row["work"]), row["place"]))


def _row(work: str, where: str, name: str, runs: list[Measured], foreign_max: float) -> dict[str, Any]:
    calm = [run for run in runs if run.foreign_cpus <= foreign_max] or runs
    values = {figure: [getattr(run.figures, figure) for run in calm] for figure in FIGURES}
    lines = [ns for run in calm for ns in (run.figures.cacheline_ns_before, run.figures.cacheline_ns_after) if ns]
    return {
        "work": work,
        "place": where,
        "name": name,
        **{figure: {"median": median(v), "min": min(v), "max": max(v)} for figure, v in values.items()},
        "n": len(calm),
        "left_out": len(runs) - len(calm),
        "foreign_cpus": median(run.foreign_cpus for run in calm),
        "cacheline_ns": median(lines) if lines else None,
    }


def _places(names: tuple[str, ...]) -> list[Place]:
    cpus = sorted(os.sched_getaffinity(0))
    known = {"two": Place("two CPUs", (cpus[0], cpus[-1])), "one": Place("one CPU", (cpus[0], cpus[0]))}
    return [known[name] for name in names if len(cpus) > 1 or name == "one"]


def _image(stack: contextlib.ExitStack, size: int) -> Path:
    """A file in memory as those in /dev/shm are, of which nothing is left however this process ends."""
    fd = os.memfd_create("image")
    stack.callback(os.close, fd)
    os.truncate(fd, size)
    return Path(f"/proc/{os.getpid()}/fd/{fd}")


def measure(place: Place, works: list[str], only: tuple[str, ...], options: dict[str, Any]) -> Session:
    """All works in one place."""
    with contextlib.ExitStack() as stack:
        images = (_image(stack, options["disk_bytes"]), _image(stack, options["disk_bytes"]))
        found = entries(stack, place, options["disk_bytes"], images, peers=options["peers"])
        chosen = {name: start for name, start in found.items() if not only or any(word in name for word in only)}
        progress = stack.enter_context(progress_bar(place.name))
        session = Session(chosen)
        total = len(works) * options["rounds"]
        for done in range(total):
            name = works[done // options["rounds"]]
            if done % options["rounds"] == 0:
                session.prepare(WORKS[name])
            session.round(name, WORKS[name], place, options["seconds"])
            progress(done + 1, total)
    return session


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--peers", is_flag=True, help="Other people's servers too (`make peers` fetches them).")
@click.option(
    "--place", "where", type=click.Choice(["two", "one"]), multiple=True, default=("two", "one"), help="CPUs."
)
@click.option("--work", "works", type=click.Choice(list(WORKS)), multiple=True, default=DEFAULT, help="What to run.")
@click.option("--only", multiple=True, help="Contenders with this word in their name.  [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=21, show_default=True, help="How often each is run.")
@click.option("--seconds", type=click.FloatRange(0.01), default=0.1, show_default=True, help="How long each run takes.")
@click.option("--disk-mib", type=click.IntRange(4), default=512, show_default=True, help="The size of each disk.")
@click.option("--foreign-max", type=float, default=0.25, show_default=True, help="CPUs that others may take.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw the table to a file.")
def main(
    where: tuple[str, ...],
    works: tuple[str, ...],
    only: tuple[str, ...],
    foreign_max: float,
    as_json: bool,
    picture: Path | None,
    disk_mib: int,
    **options: Any,
) -> None:
    """Blocks a second through the limit, xenblk's modes and others, in turns, in one run."""
    if picture is not None:
        check_plot()
    options["disk_bytes"] = disk_mib << 20
    sessions = [measure(place, list(works), only, options) for place in _places(where)]
    rows = summarise([one for session in sessions for one in session.measured], foreign_max)
    not_measured = [{"name": n, "why": why} for session in sessions for n, why in session.not_measured.items()]
    run = {"rounds": options["rounds"], "seconds": options["seconds"]}
    if as_json:
        machine = {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        click.echo(json.dumps({"machine": machine, **run, "rows": rows, "not_measured": not_measured}, indent=2))
    else:
        show(rows, not_measured, f"median (least..most) of up to {run['rounds']} rounds of {run['seconds']:g} s")
    if picture is not None:
        plot(rows, picture)


if __name__ == "__main__":
    main()
