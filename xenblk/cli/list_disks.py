"""`xenblk list`: the disks of a running host's domains, as `xl block-list`."""

import json

import click
from rich.console import Console
from rich.table import Table

from xenblk import toolstack
from xenblk.abi import Domid
from xenblk.cli.options import domid_option
from xenblk.cli.platforms import Xen, xen_option


@click.command("list")
@xen_option
@domid_option(None, "Only this domain.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_disks(xen: Xen, domid: Domid | None, as_json: bool) -> None:
    """Show the attached disks and the state of both ends."""
    with xen.store() as store:
        found = toolstack.disks(store, domid)
    rows = [
        {
            "domid": disk.domid,
            "vdev": disk.vdev,
            "handle": disk.handle,
            "backend_domid": disk.backend_id,
            "mode": disk.mode,
            "frontend": disk.frontend_state.label,
            "backend": disk.backend_state.label,
            "disk": disk.params,
        }
        for disk in found
    ]
    if as_json:
        click.echo(json.dumps({"disks": rows}))
        return
    table = Table(box=None, header_style="")
    for column in ("Domid", "Vdev", "Handle", "BE", "Mode", "Frontend", "Backend", "Disk"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=None if Console().is_terminal else 200).print(table)
