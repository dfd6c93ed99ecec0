"""Options that several commands share, and how people write sizes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xenblk.abi import Domid
from xenblk.disk import parse_size
from xenblk.emulated.rundir import default_run_dir
from xenblk.engines import ENGINES, POLL_US, POLL_US_MAX
from xenblk.errors import DiskError
from xenblk.vdev import parse_vdev

if TYPE_CHECKING:
    _Number = click.ParamType[int]
else:
    _Number = click.ParamType  # click before 8.2 has no types in brackets

F = TypeVar("F", bound=Callable[..., Any])


class Size(_Number):
    """A number of bytes, with K, M or G as fio takes them (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except DiskError as e:
            self.fail(str(e), param, ctx)


class Vdev(_Number):
    """A virtual device by name or number."""

    name = "vdev"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Its number."""
        return value if isinstance(value, int) else parse_vdev(value)


def run_dir_option(command: F) -> F:
    """`--run-dir`: which emulated Xen."""
    return click.option(
        "--run-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_run_dir,
        show_default="$XENBLK_RUN_DIR, or one of this user's own",
        help="The run directory of the emulated Xen.",
    )(command)


def domid_option(default: int | None = 1, help_text: str = "The domain.") -> Callable[[F], F]:
    """`--domid`: which domain."""
    return click.option(
        "--domid",
        type=click.IntRange(0, 0x7FEF),
        default=default,
        show_default=default is not None,
        callback=lambda _context, _parameter, value: None if value is None else Domid(value),
        help=help_text,
    )


def own_domid_option(default: int, help_text: str) -> Callable[[F], F]:
    """`--domid`: which domain this process is to be."""
    return domid_option(None, f"{help_text}  [default: {default}; of this machine's own Xen, where it runs]")


def vdev_option(command: F) -> F:
    """`--vdev`: which disk of the domain."""
    return click.option("--vdev", type=Vdev(), default="xvda", show_default=True, help="The virtual device.")(command)


def engine_option(command: F) -> F:
    """`--engine`: native or python."""
    return click.option(
        "--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True, help="Who moves the data."
    )(command)


def poll_us_option(command: F) -> F:
    """`--poll-us`: how long the native engine polls."""
    return click.option(
        "--poll-us",
        type=click.IntRange(0, POLL_US_MAX),
        default=POLL_US,
        show_default=True,
        help="Look at a ring for so long before sleeping, while that pays; 0 never. The native engine's.",
    )(command)


def pin_option(command: F) -> F:
    """`--pin`: which CPUs; the process is there when the command's function is called."""
    return click.option(
        "--pin",
        callback=lambda _context, _parameter, value: None if value is None else pin(value),
        expose_value=False,
        help="CPUs to run on, such as 0 or 0,2-3.  [default: any]",
    )(command)


def pinnable(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A callback for CPUs that another process is to run on: `value`, once it is known that this one could."""
    if value is not None:
        before = os.sched_getaffinity(0)
        pin(value)
        os.sched_setaffinity(0, before)
    return value


def pin(text: str) -> None:
    """Run on these CPUs only, given as taskset takes them; BadParameter unless this machine has one of them."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.BadParameter(f"CPUs are numbers and ranges such as 0,2-3, not {text!r}")
        cpus |= set(range(int(first), int(last or first) + 1))
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, OverflowError, ValueError):
        last_cpu = (os.cpu_count() or 1) - 1
        raise click.BadParameter(f"this process may not run on {text!r}: CPUs are 0 to {last_cpu}") from None
