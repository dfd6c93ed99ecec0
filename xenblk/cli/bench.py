"""`xenblk bench`: one workload on one attached disk, as the kernel of the disk's domain."""

from collections.abc import Callable
from pathlib import Path

import click

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront
from xenblk.cli.options import domid_option, run_dir_option, vdev_option
from xenblk.cli.workload_options import job_options
from xenblk.counters import Counters, tlb_shootdowns
from xenblk.disk import FileDisk
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.harness import Job, progress_bar, run_job
from xenblk.harness.cpu import process_cpu_s
from xenblk.harness.report import print_table, result_table


@click.command()
@run_dir_option
@domid_option(help_text="The domain to boot.")
@vdev_option
@job_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")
@click.option("--mode-name", default="persistent", hidden=True)
@click.option("--backend-pid", type=int, hidden=True, help="The process whose CPU time counts as the backend's.")
@click.option("--verify-file", type=click.Path(path_type=Path), hidden=True, help="What the disk holds at the start.")
@click.option("--progress-json", is_flag=True, hidden=True, help="Progress as JSON lines.")
def bench(
    run_dir: Path,
    domid: Domid,
    vdev: int,
    job: Job,
    as_json: bool,
    mode_name: str,
    backend_pid: int | None,
    verify_file: Path | None,
    progress_json: bool,
) -> None:
    """Run one workload on one attached disk, verify the data, print IOPS and latencies."""
    platform = EmulatedPlatform(run_dir, domid)
    frontend = Blkfront(platform, vdev)
    try:
        frontend.connect()
        with progress_bar(mode_name, as_json_lines=progress_json, quiet=as_json) as progress:
            result = run_job(
                frontend,
                job,
                mode=mode_name,
                engine="python",
                progress=progress,
                initial=_reader(verify_file),
                backend_counters=lambda: _backend_counters(platform, frontend),
                backend_cpu_s=lambda: process_cpu_s(backend_pid),
            )
    finally:
        frontend.close()
    platform.halt()
    platform.close()
    if as_json:
        click.echo(result.to_json())
    else:
        print_table(result_table([result]))


def _reader(path: Path | None) -> Callable[[int, int], bytes] | None:
    """What an image holds, read past the ring."""
    if path is None:
        return None
    image = FileDisk(path, read_only=True)
    return lambda offset, length: image.pread(length, offset)


def _backend_counters(platform: EmulatedPlatform, frontend: Blkfront) -> dict[str, int]:
    """The backend's counters, with both ends' notifications: those of the ring as a whole."""
    name = f"vbd-{frontend.backend_id}-{platform.domid}-{frontend.handle}-0"
    front, back = (_snapshot(platform.counters_dir() / f"{name}.{end}") for end in ("front", "back"))
    counts = {**back, **{key: front[key] + back[key] for key in ("notify_sent", "notify_held")}}
    shootdowns = tlb_shootdowns()
    return counts if shootdowns is None else {**counts, "tlb_shootdowns": shootdowns}


def _snapshot(path: Path) -> dict[str, int]:
    counters = Counters.open(path)
    try:
        return counters.snapshot()
    finally:
        counters.close()
