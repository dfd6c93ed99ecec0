"""`xenblk bench`: one workload on one attached disk, as the kernel of the disk's domain."""

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront
from xenblk.blkfront.options import QUEUES_MAX
from xenblk.cli.guest import booted
from xenblk.cli.options import (
    engine_option,
    own_domid_option,
    pin_option,
    poll_us_option,
    vdev_option,
)
from xenblk.cli.platforms import Xen, xen_option
from xenblk.cli.ring_options import ring_options
from xenblk.cli.workload_options import job_options
from xenblk.counters import Counters, tlb_shootdowns
from xenblk.disk import MEMORY_PREFIX, FileDisk
from xenblk.harness import BenchResult, Job, progress_bar, run_job
from xenblk.harness.cpu import process_cpu_s
from xenblk.harness.oracle import Initial
from xenblk.platform import Platform


@click.command()
@xen_option
@own_domid_option(1, "The domain to boot.")
@vdev_option
@job_options
@engine_option
@poll_us_option
@ring_options
@click.option("--nr-queues", type=click.IntRange(1, QUEUES_MAX), help="Rings of the disk.  [default: one per job]")
@pin_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")
@click.option("--mode-name", hidden=True)
@click.option("--backend-pid", type=int, hidden=True, help="The process whose CPU time counts as the backend's.")
@click.option("--verify-file", hidden=True, help="The image under the disk, or memory:SIZE for a disk of zeros.")
@click.option("--progress-json", is_flag=True, hidden=True, help="Progress as JSON lines.")
def bench(
    xen: Xen,
    domid: Domid | None,
    vdev: int,
    job: Job,
    engine: str,
    poll_us: int,
    protocol: str,
    ring_page_order: int,
    max_indirect_segments: int,
    nr_queues: int | None,
    as_json: bool,
    mode_name: str | None,
    backend_pid: int | None,
    verify_file: str | None,
    progress_json: bool,
) -> None:
    """Run one workload on one attached disk, verify the data, print IOPS and latencies."""
    if nr_queues is not None and nr_queues < job.numjobs:
        raise click.UsageError(f"{job.numjobs} jobs need a ring each, and --nr-queues is {nr_queues}")
    with (
        booted(
            xen,
            domid,
            vdev,
            engine=engine,
            poll_us=poll_us,
            protocol=protocol,
            ring_page_order=ring_page_order,
            max_indirect_segments=max_indirect_segments,
            nr_queues=nr_queues or job.numjobs,
        ) as (platform, frontend),
        progress_bar(mode_name or _mode(frontend), as_json_lines=progress_json, quiet=as_json) as progress,
        _initial(verify_file) as initial,
    ):
        result = run_job(
            frontend,
            job,
            mode=mode_name or _mode(frontend),
            progress=progress,
            initial=initial,
            backend_counters=lambda: _backend_counters(platform, frontend),
            backend_cpu_s=lambda: process_cpu_s(backend_pid),
        )
    if as_json:
        click.echo(result.to_json())
    else:
        _print(result)


def _mode(frontend: Blkfront) -> str:
    """What can be seen of it from here."""
    return "persistent" if frontend.persistent else "not persistent"


def _print(result: BenchResult) -> None:
    from xenblk.harness import report  # noqa: PLC0415 - only where it is shown: rich is half of a command's start

    report.print_table(report.result_table([result]))


@contextlib.contextmanager
def _initial(disk: str | None) -> Iterator[Initial]:
    """What the disk holds at the start: zeros, an image's content as read past the ring, or whatever is found."""
    if disk is None:
        yield "unknown"
    elif disk.startswith(MEMORY_PREFIX):
        yield "zeros"
    else:
        with contextlib.closing(FileDisk(disk, read_only=True)) as image:
            yield image


def _backend_counters(platform: Platform, frontend: Blkfront) -> dict[str, int]:
    """The backend's counters, if it is one of ours, with both ends' notifications: those of the rings as a whole."""
    disk = platform.counters_dir() / f"vbd-{frontend.backend_id}-{platform.domid}-{frontend.handle}"
    counts: collections.Counter[str] = collections.Counter()
    for queue in range(frontend.nr_queues):
        front, back = (_snapshot(disk.with_name(f"{disk.name}-{queue}.{end}")) for end in ("front", "back"))
        counts.update(back)
        counts.update({key: front[key] for key in ("notify_sent", "notify_held")})
    shootdowns = tlb_shootdowns()
    return dict(counts) if shootdowns is None else {**counts, "tlb_shootdowns": shootdowns}


def _snapshot(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    counters = Counters.open(path)
    try:
        return counters.snapshot()
    finally:
        counters.close()
