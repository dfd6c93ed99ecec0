"""`xenblk host`: the emulated Xen."""

from pathlib import Path

import click

from xenblk.cli.options import run_dir_option
from xenblk.cli.service import allow_many_descriptors, say_ready, stop_on_signals
from xenblk.emulated.host import HostServer
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
