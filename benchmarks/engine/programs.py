"""The C programs of this folder, compiled when they are first used, each run by a function with typed options.

All are compiled alike and for any CPU of their kind, as xenblk is, and not with -march=native: what is in build/ may be
run on another machine later, and who copies past the caches asks the CPU at run time what it can do.
"""

import dataclasses
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click

FOLDER: Final = Path(__file__).resolve().parent
BUILD: Final = FOLDER.parents[1] / "build" / "bench"
FLAGS: Final = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread")
PATIENCE_S: Final = 30.0

Op = Literal["read", "write"]
Order = Literal["random", "sequential"]
Result = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """What block I/O did: requests a second, latencies, and CPU seconds of all processes for a million requests.

    A line's round trip between the two CPUs, before and after, is None if there is one CPU, or they are not known.
    `lost_share` is known of processes that always spin: what part of their CPUs' time they did not get, for others.
    """

    name: str
    iops: float
    p50_us: float
    p99_us: float
    cpu_s_per_million: float
    cacheline_ns_before: float | None = None
    cacheline_ns_after: float | None = None
    lost_share: float | None = None


@dataclass(frozen=True)
class Ideal:
    """Options of ideal.c. `spin_us` None: never sleep. `batch` and `wake` 0: what was found best for the rest."""

    op: Op = "read"
    order: Order = "random"
    block_bytes: int = 4096
    depth: int = 32
    copies: Literal[1, 2] = 2
    stores: Literal["plain", "streaming"] = "plain"
    spin_us: int | None = None
    cpus: tuple[int, int] = (0, 1)
    seconds: float = 1.0
    disk_bytes: int = 1 << 30
    batch: int = 0
    wake: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        copies = "1 copy" if self.copies == 1 else "2 copies"
        waits = {None: "spinning", 0: "sleeping"}.get(self.spin_us, f"spinning {self.spin_us} µs")
        cpus = "one CPU" if self.cpus[0] == self.cpus[1] else "two CPUs"
        return f"ideal ring, {copies}, {self.stores} stores, {waits}, {cpus}"


@dataclass(frozen=True)
class Direct:
    """Options of direct.c, on a file that is filled with `fill` bytes of stamps; with what it holds if that is 0."""

    path: Path
    how: Literal["io_uring", "psync", "mmap"] = "io_uring"
    op: Op = "read"
    order: Order = "random"
    block_bytes: int = 4096
    depth: int = 1
    wait: int = 1
    direct: bool = False
    cpu: int | None = None
    seconds: float = 1.0
    fill: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"no second process, {self.how}{', O_DIRECT' if self.direct else ''}"


@dataclass(frozen=True)
class MapCost:
    """Options of mapcost.c."""

    batch: int = 1
    access: Literal["write", "read", "none"] = "write"
    unmap: Literal["each", "run"] = "each"
    order: Literal["scattered", "neighbours"] = "scattered"
    threads: Literal[1, 2] = 1
    cpus: tuple[int, int] = (0, 1)
    seconds: float = 1.0


@dataclass(frozen=True)
class MapFigures:
    """What one page took to be mapped, touched and unmapped; a TLB shootdown is an interrupt of one CPU."""

    ns_per_page: float
    cpu_ns_per_page: float
    shootdowns_per_page: float | None


def build(name: str) -> Path:
    """The program of that name, compiled if need be. ClickException if it cannot be."""
    program, source = BUILD / name, FOLDER / f"{name}.c"
    inputs = [source, Path(__file__), *FOLDER.glob("*.h")]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
        BUILD.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")  # renamed when complete: another benchmark may build it as well
        if subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-o", made, source], check=False).returncode:
            raise click.ClickException(f"{source} could not be compiled")
        made.rename(program)
    return program


def run_program(name: str, *arguments: str, seconds: float = 0.0) -> Result:
    """A program's line of JSON. ClickException if it fails, or does not end in time."""
    command = [str(build(name)), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=2 * seconds + PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"{' '.join(command)} did not end") from None
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    result: Result = json.loads(done.stdout)
    if result.get("checks_failed"):
        raise click.ClickException(f"{' '.join(command)}: {result['checks_failed']} pages were not what they should be")
    return result


def cacheline_ns(cpus: tuple[int, int]) -> float | None:
    """A cache line's round trip between two CPUs; None if they are one. It takes less than 50 ms."""
    if cpus[0] == cpus[1]:
        return None
    return float(run_program("cacheline", _pair(cpus))["round_trip_ns"])


def run_ideal(ideal: Ideal) -> Figures:
    """The limit, with the machine's state before and after. The name says so if the disk is not in huge pages."""
    before = cacheline_ns(ideal.cpus)
    found = run_program("ideal", *_options(ideal), seconds=ideal.seconds)
    cpu_s = found["client_cpu_s"] + found["server_cpu_s"]
    lost_share = max(0.0, 1 - cpu_s / 2 / found["seconds"]) if ideal.spin_us is None else None
    name = ideal.name if found["disk_huge"] > 0.95 else f"{ideal.name}, disk in 4 KiB pages"
    figures = _figures(name, found, cpu_s)
    after = cacheline_ns(ideal.cpus)
    return dataclasses.replace(figures, cacheline_ns_before=before, cacheline_ns_after=after, lost_share=lost_share)


def run_direct(direct: Direct) -> Figures:
    """Block I/O without a second process."""
    found = run_program("direct", str(direct.path), *_options(direct), seconds=direct.seconds)
    return _figures(direct.name, found, found["cpu_s"])


def run_mapcost(mapcost: MapCost) -> MapFigures:
    """Bare mappings."""
    found = run_program("mapcost", *_options(mapcost), seconds=mapcost.seconds)
    return MapFigures(**{field.name: found[field.name] for field in dataclasses.fields(MapFigures)})


def _figures(name: str, found: Result, cpu_s: float) -> Figures:
    cpu_s_per_million = cpu_s * 1e6 / max(1, found["operations"])
    return Figures(name, found["iops"], found["p50_ns"] / 1e3, found["p99_ns"] / 1e3, cpu_s_per_million)


def _options(options: Ideal | Direct | MapCost) -> list[str]:
    """A field is an option of the same name; None is one that is not given."""
    made = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Path) or value is None:
            continue
        text = _pair(value) if isinstance(value, tuple) else str(int(value) if isinstance(value, bool) else value)
        made += [f"--{field.name.replace('_', '-')}", text]
    return made


def _pair(cpus: tuple[int, int]) -> str:
    return f"{cpus[0]},{cpus[1]}"
