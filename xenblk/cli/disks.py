"""`xenblk attach` and `detach`: disks of a running host's domains, as `xl block-attach` and its kin."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from xenblk import toolstack
from xenblk.abi import DOM0, Domid
from xenblk.cli.options import domid_option, run_dir_option, vdev_option
from xenblk.disk import MEMORY_PREFIX, SECTOR_SIZES
from xenblk.emulated.control import ControlClient
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import HostError
from xenblk.xenstore.client import Xenstore


@contextlib.contextmanager
def connected(run_dir: Path) -> Iterator[tuple[ControlClient, Xenstore]]:
    """A running host and its xenstore. HostError if there is none."""
    directory = RunDirectory(run_dir)
    control = ControlClient(directory.control)
    try:
        with Xenstore(str(directory.xenstore(DOM0))) as store:
            yield control, store
    finally:
        control.close()


def _absolute(disk: str) -> str:
    return disk if disk.startswith(MEMORY_PREFIX) else str(Path(disk).absolute())


@click.command()
@run_dir_option
@domid_option(help_text="The domain that gets the disk; made if there is none.")
@vdev_option
@click.option("--disk", required=True, help="The image: a path, or memory:SIZE.")
@click.option("--mode", type=click.Choice(toolstack.MODES), default="w", show_default=True, help="r: read-only.")
@click.option(
    "--backend-domid", type=click.IntRange(0, 0x7FEF), default=0, show_default=True, help="The domain that serves it."
)
@click.option(
    "--sector-size",
    type=click.Choice([str(size) for size in SECTOR_SIZES]),
    default="512",
    show_default=True,
    help="Bytes of the disk's blocks.",
)
@click.option("--device-type", type=click.Choice(toolstack.DEVICE_TYPES), default="disk", show_default=True)
@click.option("--removable", is_flag=True, help="Tell the domain that the disk is removable.")
@click.option("--discard-enable/--no-discard-enable", default=True, help="Let the backend offer discard.")
@click.option("--trusted/--untrusted", default=True, help="Untrusted: the domain grants no pages but its pool's.")
def attach(
    run_dir: Path,
    domid: Domid,
    vdev: int,
    disk: str,
    mode: str,
    backend_domid: int,
    sector_size: str,
    device_type: str,
    removable: bool,
    discard_enable: bool,
    trusted: bool,
) -> None:
    """Attach a disk to a domain, and wait until its backend has it."""
    with connected(run_dir) as (control, store):
        try:
            control.call("create", domid=domid)
        except HostError as e:
            if e.name != "EEXIST":
                raise
        options = toolstack.DiskOptions(int(sector_size), device_type, removable, discard_enable, trusted)
        toolstack.attach(store, domid, vdev, _absolute(disk), mode, Domid(backend_domid), options=options)


@click.command()
@run_dir_option
@domid_option()
@vdev_option
def detach(run_dir: Path, domid: Domid, vdev: int) -> None:
    """Take a disk away from a domain."""
    with connected(run_dir) as (_control, store):
        toolstack.detach(store, domid, vdev)
