"""`xenblk parameters`: what may be set on a backend while it runs, as sysctl does it."""

import json

import click

from xenblk.abi import Domid
from xenblk.blkback.parameter_nodes import read_parameters, write_parameter
from xenblk.cli.options import domid_option
from xenblk.cli.platforms import Xen, xen_option
from xenblk.toolstack import BACKEND_TYPE


@click.command()
@xen_option
@domid_option(0, "The domain that the backend runs in.")
@click.option("--backend-type", default=BACKEND_TYPE, show_default=True, help="Which of that domain's backends.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
def parameters(xen: Xen, domid: Domid, backend_type: str, as_json: bool, settings: tuple[str, ...]) -> None:
    """Show the parameters of a running backend, or change some: max_persistent_grants=1000, log_stats=Y.

    Names and values are those of /sys/module/xen_blkback/parameters. Changes apply to rings that are served, too; but
    feature_persistent applies to the connections made from then on.
    """
    with xen.store() as store:
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise click.UsageError(f"a parameter is changed by NAME=VALUE, not {setting!r}")
            write_parameter(store, domid, name, value, backend_type)
        if settings:
            return
        found = read_parameters(store, domid, backend_type)
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name} = {value}" for name, value in found.items()))
