"""`xenblk attach` and `detach`: disks of a running host's domains, as `xl block-attach` and its kin."""

from pathlib import Path

import click

from xenblk import toolstack
from xenblk.abi import Domid
from xenblk.cli.options import domid_option, vdev_option
from xenblk.cli.platforms import Xen, xen_option
from xenblk.disk import MEMORY_PREFIX, SECTOR_SIZES


def _absolute(disk: str) -> str:
    return disk if disk.startswith(MEMORY_PREFIX) else str(Path(disk).absolute())


def _node(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"a node is written KEY=VALUE, not {text!r}")
    return key, value


@click.command()
@xen_option
@domid_option(help_text="The domain that gets the disk; an emulated Xen makes it.")
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
@click.option(
    "--backend-type", default=toolstack.BACKEND_TYPE, show_default=True, help="Which of that domain's backends."
)
@click.option(
    "--backend-node",
    "backend_nodes",
    multiple=True,
    metavar="KEY=VALUE",
    callback=lambda _context, _parameter, values: dict(map(_node, values)),
    help="What else that backend needs in its directory. Repeatable.",
)
@click.option("--trusted/--untrusted", default=True, help="Untrusted: the domain grants no pages but its pool's.")
def attach(
    xen: Xen,
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
    backend_type: str,
    backend_nodes: dict[str, str],
) -> None:
    """Attach a disk to a domain, and wait until its backend has it."""
    xen.require_domain(domid)
    with xen.store() as store:
        options = toolstack.DiskOptions(
            int(sector_size), device_type, removable, discard_enable, trusted, backend_type, backend_nodes
        )
        toolstack.attach(store, domid, vdev, _absolute(disk), mode, Domid(backend_domid), options=options)


@click.command()
@xen_option
@domid_option()
@vdev_option
def detach(xen: Xen, domid: Domid, vdev: int) -> None:
    """Take a disk away from a domain."""
    with xen.store() as store:
        toolstack.detach(store, domid, vdev)
