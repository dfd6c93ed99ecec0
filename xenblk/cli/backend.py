"""`xenblk backend`: the domain that serves disks."""

import dataclasses
import logging

import click

from xenblk.abi import DOM0, Domid
from xenblk.blkback import Backend, BackendParameters, stats_log
from xenblk.blkback.parameters import UNUSED_SECONDS_MAX
from xenblk.blkif import ABI_BY_PROTOCOL
from xenblk.cli.options import engine_option, own_domid_option, pin_option, poll_us_option
from xenblk.cli.platforms import Xen, xen_option
from xenblk.cli.service import say_ready, stop_on_signals
from xenblk.toolstack import BACKEND_TYPE


@click.command()
@xen_option
@own_domid_option(0, "The domain that the backend runs in.")
@click.option(
    "--backend-type", default=BACKEND_TYPE, show_default=True, help="Folder of the domain's backend/ to serve."
)
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
@click.option(
    "--keep-connected",
    is_flag=True,
    help="When stopped, leave guests connected: their requests wait for the next backend.",
)
@click.option("--direct", is_flag=True, help="Open images with O_DIRECT.")
@pin_option
def backend(
    xen: Xen,
    domid: Domid | None,
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
    backend_type: str,
    keep_connected: bool,
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
        keep_connected=keep_connected,
    )
    if max_queues is not None:
        parameters = dataclasses.replace(parameters, max_queues=max_queues)
    logging.getLogger(stats_log.LOGGER).setLevel(logging.INFO)  # whatever -v says
    platform = xen.enter(domid, DOM0)
    try:
        driver = Backend(platform, parameters, backend_type=backend_type)
        stop_on_signals(driver.stop)
        say_ready(f"xenblk backend: ready; serves the disks of domain {platform.domid}")
        driver.run()
    finally:
        platform.close()
