"""The options that describe the rings of a frontend; apart from the others, so that other commands load no frontend."""

import click

from xenblk.blkfront.options import INDIRECT_SEGMENTS_MAX, RING_PAGE_ORDER_MAX
from xenblk.cli.options import F


def ring_options(command: F) -> F:
    """`--ring-page-order` and `--max-indirect-segments`: what a frontend asks its backend for."""
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
    ):
        command = option(command)
    return command
