"""Which Xen a command is about, an emulated one or the machine's own, and what a command may ask of either."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
from click.core import ParameterSource

from xenblk.abi import DOM0, Domid
from xenblk.emulated.control import ControlClient
from xenblk.emulated.rundir import RunDirectory, default_run_dir
from xenblk.errors import HostError
from xenblk.xen import run_dir as xen_run_dir
from xenblk.xen.devices import Devices
from xenblk.xenstore.client import Xenstore

if TYPE_CHECKING:
    from xenblk.platform import Platform

PLATFORMS: Final = ("auto", "xen", "emulated")


class Xen(Protocol):
    """A Xen, as commands know it."""

    @property
    def counters_dir(self) -> Path:
        """Where the counters of its rings are."""

    def enter(self, domid: Domid | None, default: Domid) -> "Platform":
        """This process as a domain of it; with no `domid`, as `default` where this process could be any."""

    def store(self) -> Xenstore:
        """Xenstore, as a toolstack."""

    def require_domain(self, domid: Domid) -> None:
        """A domain is about to be given something: it is there from now on, or HostError."""


class EmulatedXen:
    """That of a running host."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = RunDirectory(run_dir)

    @property
    def counters_dir(self) -> Path:
        """In the run directory."""
        return self._directory.counters

    def enter(self, domid: Domid | None, default: Domid) -> "Platform":
        """A guest is booted by it; domain 0 is entered."""
        from xenblk.emulated.platform import EmulatedPlatform  # noqa: PLC0415 - not every command enters

        return EmulatedPlatform(self._directory.path, default if domid is None else domid)

    def store(self) -> Xenstore:
        """HostError if no host runs."""
        ControlClient(self._directory.control).close()
        return Xenstore(str(self._directory.xenstore(DOM0)))

    def require_domain(self, domid: Domid) -> None:
        """A domain that is not there is made."""
        control = ControlClient(self._directory.control)
        try:
            control.call("create", domid=domid)
        except HostError as e:
            if e.name != "EEXIST":
                raise
        finally:
            control.close()


class RealXen:
    """That under this machine's Linux."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @property
    def counters_dir(self) -> Path:
        """In the run directory."""
        return self._run_dir / "counters"

    def enter(self, domid: Domid | None, default: Domid) -> "Platform":
        """A process is in the domain that it runs in; HostError if that is not `domid`."""
        from xenblk.xen.platform import XenPlatform  # noqa: PLC0415 - not every command enters

        return XenPlatform(domid, run_dir=self._run_dir)

    def store(self) -> Xenstore:
        """As the domain that this process runs in."""
        from xenblk.xen.store import open_store  # noqa: PLC0415 - not every command is about real Xen

        return open_store(Devices())

    def require_domain(self, domid: Domid) -> None:
        """HostError if there is none."""
        with self.store() as store:
            if not store.exists(f"/local/domain/{domid}"):
                raise HostError("ENOENT", f"there is no domain {domid}")


def choose(platform: str, run_dir: Path | None, *, run_dir_is_typed: bool) -> Xen:
    """`auto` is this machine's Xen, if it has one, unless the command line or a running host say otherwise."""
    emulated = EmulatedXen(run_dir or default_run_dir())
    if platform == "auto":
        hosted = run_dir_is_typed or RunDirectory(run_dir or default_run_dir()).control.exists()
        platform = "xen" if Devices().is_domain and not hosted else "emulated"
    return RealXen(run_dir or xen_run_dir()) if platform == "xen" else emulated


def xen_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--platform` and `--run-dir`, which the command gets as `xen`: which Xen it is about."""

    @click.option(
        "--platform",
        type=click.Choice(PLATFORMS),
        default=PLATFORMS[0],
        show_default=True,
        envvar="XENBLK_PLATFORM",
        help="This machine's own Xen, or an emulated one; auto: the former if there is one and no --run-dir.",
    )
    @click.option(
        "--run-dir",
        type=click.Path(path_type=Path, file_okay=False),
        show_default="$XENBLK_RUN_DIR, or one of this user's own; /run/xenblk on real Xen",
        help="The run directory of the emulated Xen; on real Xen, that of counters and journals.",
    )
    @functools.wraps(command)
    def with_xen(platform: str, run_dir: Path | None, **values: Any) -> Any:
        typed = click.get_current_context().get_parameter_source("run_dir") == ParameterSource.COMMANDLINE
        return command(xen=choose(platform, run_dir, run_dir_is_typed=typed), **values)

    return with_xen
