"""`xenblk statistics`: what the disks of a running host did so far, by Linux's names."""

import json

import click
from rich.console import Console
from rich.table import Table

from xenblk import toolstack
from xenblk.abi import Domid
from xenblk.blkback.statistics import NAMES, read_attributes, read_statistics
from xenblk.cli.options import domid_option
from xenblk.cli.platforms import Xen, xen_option


@click.command()
@xen_option
@domid_option(None, "Only this domain.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def statistics(xen: Xen, domid: Domid | None, as_json: bool) -> None:
    """Show what each disk's backend counted: requests, and sectors of 512 bytes."""
    with xen.store() as store:
        rows = [
            {
                "domid": disk.domid,
                "vdev": disk.vdev,
                **read_statistics(xen.counters_dir, disk.backend_id, disk.domid, disk.handle),
                **read_attributes(store, disk.backend_id, disk.domid, disk.handle),
            }
            for disk in toolstack.disks(store, domid)
        ]
    if as_json:
        click.echo(json.dumps({"disks": rows}))
        return
    table = Table(box=None, header_style="")
    for column in ("domid", "vdev", *NAMES, "physical_device", "mode"):
        table.add_column(column, justify="right" if column in NAMES else "left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=None if Console().is_terminal else 200).print(table)
