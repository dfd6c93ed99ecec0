"""Which Xen a command is about."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from xenblk.cli import platforms
from xenblk.cli.platforms import EmulatedXen, RealXen, Xen, choose, xen_option
from xenblk.errors import HostError
from xenblk.xen.devices import Devices


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine that has no Xen."""
    for name in ("XENBLK_RUN_DIR", "XENBLK_PLATFORM", "XENSTORED_PATH", "XENSTORED_RUNDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platforms, "Devices", lambda: Devices(tmp_path))
    return tmp_path


def have_xen(machine: Path) -> None:
    (machine / "dev/xen").mkdir(parents=True)
    (machine / "dev/xen/xenbus").touch()


def test_a_machine_without_xen(machine: Path) -> None:
    assert isinstance(choose("auto", None, run_dir_is_typed=False), EmulatedXen)
    assert isinstance(choose("xen", None, run_dir_is_typed=False), RealXen)


def test_a_machine_with_xen(machine: Path) -> None:
    have_xen(machine)
    assert choose("auto", None, run_dir_is_typed=False).counters_dir == Path("/run/xenblk/counters")
    assert isinstance(choose("emulated", None, run_dir_is_typed=False), EmulatedXen)
    assert isinstance(choose("auto", machine, run_dir_is_typed=True), EmulatedXen)


def test_a_host_that_runs_comes_first(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have_xen(machine)
    monkeypatch.setenv("XENBLK_RUN_DIR", str(machine / "run"))
    assert choose("auto", None, run_dir_is_typed=False).counters_dir == machine / "run/counters"
    assert isinstance(choose("auto", None, run_dir_is_typed=False), RealXen)
    (machine / "run").mkdir()
    (machine / "run/control").touch()
    assert isinstance(choose("auto", None, run_dir_is_typed=False), EmulatedXen)
    assert isinstance(choose("xen", None, run_dir_is_typed=False), RealXen)


@click.command()
@xen_option
@click.option("--word", default="none")
def command(xen: Xen, word: str) -> None:
    """Say what was chosen."""
    click.echo(f"{type(xen).__name__} {xen.counters_dir} {word}")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "RealXen /run/xenblk/counters none"),
        (["--run-dir", "/there", "--word", "any"], {}, "EmulatedXen /there/counters any"),
        (["--platform", "xen", "--run-dir", "/there"], {}, "RealXen /there/counters none"),
        ([], {"XENBLK_PLATFORM": "emulated", "XENBLK_RUN_DIR": "/here"}, "EmulatedXen /here/counters none"),
        ([], {"XENBLK_RUN_DIR": "/here"}, "RealXen /here/counters none"),
    ],
)
def test_options_and_environment(machine: Path, arguments: list[str], environment: dict[str, str], said: str) -> None:
    have_xen(machine)
    ran = CliRunner().invoke(command, arguments, env=environment, catch_exceptions=False)
    assert ran.output == f"{said}\n"


def test_what_is_missing_is_said(machine: Path) -> None:
    with pytest.raises(HostError, match="no emulated Xen answers"):
        EmulatedXen(machine).store()
    with pytest.raises(HostError, match="under no Xen"):
        RealXen(machine).require_domain(1)
