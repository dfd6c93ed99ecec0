"""The options that describe the rings of a frontend; apart from the others, so that other commands load no frontend."""

import click

from xenblk.blkfront.options import INDIRECT_SEGMENTS_MAX, RING_PAGE_ORDER_MAX
from xenblk.blkif import ABIS, NATIVE
from xenblk.cli.options import F


def ring_options(command: F) -> F:
    """`--protocol`, `--ring-page-order`, `--max-indirect-segments`: what a frontend tells its backend of its rings."""
    for option in (
        click.option(
            "--max-indirect-segments",
            type=click.IntRange(0, INDIRECT_SEGMENTS_MAX),
            default=32,
            show_default=True,
            help="Segments of one request, as far as the backend has them; 0: direct only.",
        ),
        click.option(
            "--ring-page-order",
            type=click.IntRange(0, RING_PAGE_ORDER_MAX),
            default=0,
            show_default=True,
            help="2^N pages for a ring, as far as the backend has them.",
        ),
        click.option(
            "--protocol",
            type=click.Choice(list(ABIS)),
            default=NATIVE.protocol,
            show_default=True,
            help="Layout of requests and responses: a 64-bit or a 32-bit guest's.",
        ),
    ):
        command = option(command)
    return command
