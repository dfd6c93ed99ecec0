"""The group of all sub-commands, and what an error means to whoever typed one.

A command's module is imported when the command is typed: what one of them needs costs no other its start.
"""

import importlib
import logging
import os
import signal
import sys
from typing import Final, NamedTuple

import click

from xenblk import __version__
from xenblk.errors import UsageError, XenblkError


class _Home(NamedTuple):
    """Where a command is, and its line of the group's help."""

    module: str
    function: str
    help: str


COMMANDS: Final = {
    "attach": _Home("disks", "attach", "Attach a disk to a domain, and wait until its backend has it."),
    "backend": _Home("backend", "backend", "Serve every disk attached to a backend domain, until stopped."),
    "bench": _Home("bench", "bench", "Run one workload on one attached disk, and verify the data."),
    "compare": _Home("compare", "compare", "Run one workload in every mode, and count what each costs."),
    "conform": _Home("conform", "conform", "Run the conformance cases for blkif against either end."),
    "copy": _Home("copy", "copy", "Copy a file into a virtual disk or out of it, and check it."),
    "detach": _Home("disks", "detach", "Take a disk away from a domain."),
    "host": _Home("host", "host", "Run an emulated Xen in one process, until stopped."),
    "list": _Home("list_disks", "list_disks", "Show the attached disks and the state of both ends."),
    "parameters": _Home("parameters", "parameters", "Show the parameters of a running backend, or change some."),
    "statistics": _Home("statistics", "statistics", "Show what each disk's backend counted, by Linux's names."),
    "top": _Home("top", "top", "Show what every ring does, again and again."),
    "xenstored": _Home("xenstored", "xenstored", "Run a xenstore for any client, until stopped."),
}


class _Commands(click.Group):
    """Imports the one command that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        home = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"xenblk.cli.{home.module}"), home.function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in sorted(COMMANDS)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xenblk")
@click.option("-v", "--verbose", count=True, help="Say more on standard error; twice for everything.")
def cli(verbose: int) -> None:
    """Xen's paravirtual block protocol between ordinary processes, every map, unmap and copy counted."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="xenblk: %(message)s")


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
