"""The table of commands: complete, true, and what each of them loads."""

import pkgutil
import subprocess
import sys

import click
import pytest

import xenblk.cli
from xenblk.cli.commands import COMMANDS, cli

CONTEXT = click.Context(cli)


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def some(modules: set[str], *prefixes: str) -> set[str]:
    """Those of the modules that are, or are in, one of these."""
    return {module for module in modules if f"{module}.".startswith(tuple(f"{prefix}." for prefix in prefixes))}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name: str) -> None:
    command = cli.get_command(CONTEXT, name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_no_command_is_missing() -> None:
    found = set()
    for module in pkgutil.iter_modules(xenblk.cli.__path__):
        if module.name != "commands":
            names = vars(__import__(f"xenblk.cli.{module.name}", fromlist=["*"])).values()
            found |= {command.name for command in names if isinstance(command, click.Command)}
    assert found == set(COMMANDS) == set(cli.list_commands(CONTEXT))


def test_help_has_a_line_for_each_and_loads_none() -> None:
    text = cli.get_help(CONTEXT)
    lines = [line.split() for line in text.partition("Commands:\n")[2].splitlines()]
    assert [line[0] for line in lines] == sorted(COMMANDS), "each help fits its line"
    loaded = loaded_by("from xenblk.cli.commands import cli\ntry: cli(['--help'])\nexcept SystemExit: pass")
    assert some(loaded, "xenblk") == {"xenblk", "xenblk.cli", "xenblk.cli.commands", "xenblk.errors"}
    assert not some(loaded, "rich", "cffi", "pyxs")


def test_the_command_loads_no_conformance_cases() -> None:
    assert not some(loaded_by("import xenblk.cli, xenblk.cli.commands"), "xenblk.harness")


@pytest.mark.parametrize("name", ["attach", "detach"])
def test_attaching_loads_no_driver_and_no_server(name: str) -> None:
    loaded = loaded_by(f"import xenblk.cli.{COMMANDS[name].module}")
    drivers = ("xenblk.blkback", "xenblk.blkfront", "xenblk.harness", "xenblk.xenstore.server")
    assert not some(loaded, *drivers, "rich", "asyncio")


def test_a_host_loads_no_workload_and_no_driver() -> None:
    loaded = loaded_by(f"import xenblk.cli.{COMMANDS['host'].module}")
    assert not some(loaded, "xenblk.harness", "xenblk.blkback", "xenblk.blkfront")


def test_a_backend_loads_no_workload_and_no_server() -> None:
    loaded = loaded_by(f"import xenblk.cli.{COMMANDS['backend'].module}")
    assert not some(loaded, "xenblk.harness", "xenblk.emulated.host", "xenblk.xenstore.server")


@pytest.mark.parametrize("name", ["bench", "compare"])
def test_a_workload_loads_no_table_and_no_event_loop(name: str) -> None:
    assert not some(loaded_by(f"import xenblk.cli.{COMMANDS[name].module}"), "rich", "asyncio")
