"""The one command, `xenblk`: every sub-command is a file of this folder.

Exit status: 0 done; 1 it could not be done, with a sentence on standard error that says why; 2 the command was misused;
130 interrupted. No input ends in a traceback.
"""

import contextlib
import logging
import os
import signal
import sys
from typing import NoReturn

import click

from xenblk import __version__
from xenblk.cli import bench, compare, copy, disks, host
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
    host.host,
    host.backend,
    disks.attach,
    disks.detach,
    disks.list_disks,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line; ends the process."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        cli(standalone_mode=False)
        sys.exit(0)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except UsageError as e:
        _fail(str(e), 2)
    except BrokenPipeError:
        _fail("", 141)
    except XenblkError as e:
        _fail(str(e), 1)
    except OSError as e:
        _fail(f"{e.strerror}: {e.filename}" if e.filename else e.strerror or str(e), 1)


def _fail(sentence: str, status: int) -> NoReturn:
    if sentence:
        print(f"xenblk: {sentence}", file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if status == 141:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
