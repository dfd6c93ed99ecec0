"""`xenblk host` and `xenblk backend`: the emulated Xen, and the domain that serves its disks."""

import dataclasses
import logging
from pathlib import Path

import click

from xenblk.abi import Domid
from xenblk.blkback import Backend, BackendParameters, stats_log
from xenblk.blkback.parameters import UNUSED_SECONDS_MAX
from xenblk.blkif import ABI_BY_PROTOCOL
from xenblk.cli.options import domid_option, engine_option, pin_option, poll_us_option, run_dir_option
from xenblk.cli.service import allow_many_descriptors, say_ready, stop_on_signals
from xenblk.emulated.host import HostServer
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.processes import stop_on_lifeline


@click.command()
@run_dir_option
@click.option("--lifeline", type=int, hidden=True, help="End when this descriptor reaches its end.")
def host(run_dir: Path, lifeline: int | None) -> None:
    """Run an emulated Xen: hypervisor and xenstored in one process, until stopped.

    Its run directory may be given to xenstore's own tools as XENSTORED_RUNDIR.
    """
    allow_many_descriptors()
    with HostServer(run_dir) as server:
        stop_on_signals(server.stop)
        if lifeline is not None:
            stop_on_lifeline(lifeline, server.stop)
        say_ready(f"xenblk host: ready; XENSTORED_RUNDIR={server.run_directory.path}")
        server.run()


@click.command()
@run_dir_option
@domid_option(0, "The domain that the backend runs in.")
@click.option("--feature-persistent/--no-feature-persistent", default=True, help="Offer persistent grants.")
@click.option("--max-persistent-grants", type=int, default=1056, show_default=True, help="Limit per ring.")
@click.option(
    "--persistent-grant-unused-seconds",
    type=click.FloatRange(0, UNUSED_SECONDS_MAX),
    default=60.0,
    show_default=True,
    help="Unmap a persistent grant not used for so long; 0 never.",
)
@click.option("--max-ring-page-order", type=int, default=4, show_default=True, help="Largest ring offered.")
@click.option("--max-queues", type=int, help="Most rings of one disk.  [default: one per CPU]")
@click.option(
    "--max-indirect-segments", type=int, default=256, show_default=True, help="Segments of one request; 0: direct only."
)
@click.option(
    "--default-protocol",
    type=click.Choice(sorted(ABI_BY_PROTOCOL)),
    default="x86_32-abi",
    show_default=True,
    help="What a frontend speaks that does not say.",
)
@click.option("--grant-copy", is_flag=True, help="Move data by grant copy, map no data page.")
@engine_option
@poll_us_option
@click.option(
    "--max-buffer-pages", type=int, default=1024, show_default=True, help="Pages for copies that a ring keeps."
)
@click.option("--log-stats", is_flag=True, help="Log what each ring did, every 10 seconds.")
@click.option("--direct", is_flag=True, help="Open images with O_DIRECT.")
@pin_option
def backend(
    run_dir: Path,
    domid: Domid,
    feature_persistent: bool,
    max_persistent_grants: int,
    persistent_grant_unused_seconds: float,
    max_ring_page_order: int,
    max_queues: int | None,
    max_indirect_segments: int,
    default_protocol: str,
    grant_copy: bool,
    engine: str,
    poll_us: int,
    direct: bool,
    max_buffer_pages: int,
    log_stats: bool,
) -> None:
    """Serve every disk that is attached to a backend domain, until stopped."""
    parameters = BackendParameters(
        feature_persistent=feature_persistent,
        max_persistent_grants=max_persistent_grants,
        persistent_grant_unused_seconds=persistent_grant_unused_seconds,
        max_ring_page_order=max_ring_page_order,
        max_indirect_segments=max_indirect_segments,
        default_protocol=default_protocol,
        grant_copy=grant_copy,
        engine=engine,
        poll_us=poll_us,
        direct=direct,
        max_buffer_pages=max_buffer_pages,
        log_stats=log_stats,
    )
    if max_queues is not None:
        parameters = dataclasses.replace(parameters, max_queues=max_queues)
    logging.getLogger(stats_log.LOGGER).setLevel(logging.INFO)  # whatever -v says
    platform = EmulatedPlatform(run_dir, domid)
    try:
        driver = Backend(platform, parameters)
        stop_on_signals(driver.stop)
        say_ready(f"xenblk backend: ready; serves the disks of domain {domid}")
        driver.run()
    finally:
        platform.close()
