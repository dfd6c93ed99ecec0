"""The options that describe a workload, in fio's words, and the job that they make."""

import functools
from collections.abc import Callable
from typing import Any

import click

from xenblk.cli.options import Size
from xenblk.harness import Job
from xenblk.harness.workload import NUMJOBS_MAX

RW = ("read", "write", "randread", "randwrite", "rw", "randrw")

_OPTIONS = (
    click.option("--rw", type=click.Choice(RW), default=None, help="What to do; as fio's."),
    click.option("--bs", type=Size(), default="4K", show_default=True, help="Bytes per operation."),
    click.option("--iodepth", type=int, default=32, show_default=True, help="Operations in flight."),
    click.option(
        "--numjobs",
        type=click.IntRange(1, NUMJOBS_MAX),
        default=1,
        show_default=True,
        help="Such jobs side by side, each on a ring and a part of the disk of its own.",
    ),
    click.option("--io-size", type=Size(), default=None, help="Bytes per job.  [default: 512M; Python's engine 64M]"),
    click.option(
        "--runtime", type=click.FloatRange(0, min_open=True), default=None, help="Seconds, in place of bytes."
    ),
    click.option("--rwmixread", type=click.IntRange(0, 100), default=50, show_default=True, help="Reads in a mix, %."),
    click.option("--fsync", type=click.IntRange(0), default=0, show_default=True, help="Flush after so many writes."),
    click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same operations."),
)

# By engine: a second or so, of some hundred thousand or ten thousand operations of 4 KiB a second.
_IO_SIZES = {"native": 512 << 20, "python": 64 << 20}


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the workload's options to a command that has `--engine`; it gets them as one `job`."""

    @functools.wraps(command)
    def with_job(
        rw: str | None,
        bs: int,
        iodepth: int,
        numjobs: int,
        io_size: int | None,
        runtime: float | None,
        rwmixread: int,
        fsync: int,
        seed: int,
        **rest: Any,
    ) -> Any:
        if io_size is not None and runtime is not None:
            raise click.UsageError("--io-size and --runtime exclude each other: give one of them")
        if numjobs > 1 and rest["engine"] != "native":
            raise click.UsageError(f"--numjobs {numjobs} needs the native engine")
        if io_size is None and runtime is None:
            io_size = _IO_SIZES[rest["engine"]]
        job = Job(
            rw=rw or default_rw(rest.get("disk")),
            bs=bs,
            iodepth=iodepth,
            numjobs=numjobs,
            io_size=io_size,
            runtime_s=runtime,
            seed=seed,
            rwmixread=rwmixread,
            fsync=fsync,
        )
        return command(job=job, **rest)

    decorated: Callable[..., Any] = with_job
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def default_rw(disk: str | None) -> str:
    """Reads and writes, but never unasked on somebody's image."""
    return "randrw" if disk is None or disk.startswith("memory:") else "randread"
