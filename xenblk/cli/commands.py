"""The group of all sub-commands, and what an error means to whoever typed one."""

import logging
import os
import signal
import sys

import click

from xenblk import __version__
from xenblk.cli import bench, compare, conform, copy, disks, host, parameters, statistics, xenstored
from xenblk.errors import UsageError, XenblkError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xenblk")
@click.option("-v", "--verbose", count=True, help="Say more on standard error; twice for everything.")
def cli(verbose: int) -> None:
    """Xen's paravirtual block protocol between ordinary processes, every map, unmap and copy counted."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="xenblk: %(message)s")


for _command in (
    compare.compare,
    copy.copy,
    bench.bench,
    conform.conform,
    host.host,
    host.backend,
    parameters.parameters,
    xenstored.xenstored,
    disks.attach,
    disks.detach,
    disks.list_disks,
    statistics.statistics,
):
    cli.add_command(_command)


def run() -> int:
    """Run what the command line says; the exit status. KeyboardInterrupt is the caller's."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        cli(standalone_mode=False)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except XenblkError as e:
        print(f"xenblk: {e}", file=sys.stderr)
        return 2 if isinstance(e, UsageError) else 1
    except OSError as e:
        print(f"xenblk: {e.strerror or e}" + (f": {e.filename}" if e.filename else ""), file=sys.stderr)
        return 1
    return 0
