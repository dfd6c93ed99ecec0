"""`xenblk compare`: the main job. One workload through every way of moving data, as three processes, in one table."""

from pathlib import Path

import click

from xenblk.cli.options import engine_option, pinnable, poll_us_option
from xenblk.cli.workload_options import job_options
from xenblk.disk import MEMORY_PREFIX, open_disk
from xenblk.harness import Job, progress_bar
from xenblk.harness.compare import MODES, Comparison, run_mode
from xenblk.harness.result import BenchResult, modes_json


def _modes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    modes = [mode.strip() for mode in value.split(",") if mode.strip()]
    for mode in modes:
        if mode not in MODES:
            raise click.BadParameter(f"{mode!r} is not one of {', '.join(MODES)}")
    if not modes:
        raise click.BadParameter(f"name at least one of {', '.join(MODES)}")
    return modes


@click.command()
@click.option("--disk", default="memory:64M", show_default=True, help="The image: a path, or memory:SIZE.")
@click.option("--modes", default=",".join(MODES), show_default=True, callback=_modes, help="Which, and in which order.")
@click.option(
    "--max-persistent-grants",
    type=click.IntRange(0),
    default=None,
    help="The limit in bounded mode.  [default: half of the pages in flight]",
)
@job_options
@engine_option
@poll_us_option
@click.option("--pin-frontend", callback=pinnable, help="CPUs of the frontend, such as 0 or 0,2-3.  [default: any]")
@click.option("--pin-backend", callback=pinnable, help="CPUs of the backend.  [default: any]")
@click.option("--direct", is_flag=True, help="Open the image with O_DIRECT.")
@click.option("--json", "as_json", is_flag=True, help='JSON: {"modes": [...]}.')
def compare(
    disk: str,
    modes: list[str],
    max_persistent_grants: int | None,
    job: Job,
    engine: str,
    poll_us: int,
    pin_frontend: str | None,
    pin_backend: str | None,
    direct: bool,
    as_json: bool,
) -> None:
    """Run one seeded workload in every mode, and count what each of them costs.

    Starts host, backend and frontend as processes of their own, verifies the data, and leaves nothing behind. With
    --disk PATH the default is to read only: ask for writes with --rw, and they go to that file.
    """
    writes = "read" not in job.rw.removeprefix("rand") if job.rw not in ("rw", "randrw") else True
    image = open_disk(disk, not writes, direct)
    job.check(image.size)
    image.close()
    comparison = Comparison(
        disk=disk if disk.startswith(MEMORY_PREFIX) else str(Path(disk).absolute()),
        job=job,
        writes=writes,
        max_persistent_grants=max_persistent_grants,
        engine=engine,
        poll_us=poll_us,
        pin_frontend=pin_frontend,
        pin_backend=pin_backend,
        direct=direct,
    )
    results = []
    for mode in modes:
        with progress_bar(mode) as progress:
            results.append(run_mode(comparison, mode, progress))
    if as_json:
        click.echo(modes_json(results))
    else:
        _print(results, disk)


def _print(results: list[BenchResult], disk: str) -> None:
    from xenblk.harness import report  # noqa: PLC0415 - only where it is shown: rich is half of a command's start

    report.print_table(report.compare_table(results, disk=disk))
