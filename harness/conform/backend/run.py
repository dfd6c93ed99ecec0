"""Running the cases for backends: who is tested, and where."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from xenblk.engines import ENGINES
from xenblk.errors import UsageError
from xenblk.harness.conform.backend import BACKEND, Lab
from xenblk.harness.conform.case import Case, Outcome, run_cases
from xenblk.harness.conform.xen import Xen
from xenblk.harness.doubles import BACKENDS
from xenblk.processes import Command, HostProcess

DISK: Final = "memory:1M"
"""What the tested backend is given as `params`; at least 1 MiB, its content of no matter."""


def backend_names() -> list[str]:
    """Whom `serving` knows."""
    return [*ENGINES, *BACKENDS]


@contextlib.contextmanager
def serving(name: str, *options: str) -> Iterator[Path]:
    """The run directory of a Xen of its own that our backend with engine `name`, or the double `name`, serves.

    `options` are those of `xenblk backend`, for ours. UsageError for a name that is neither.
    """
    if name not in backend_names():
        raise UsageError(f"a backend is one of {', '.join(backend_names())}, not {name!r}")
    with HostProcess() as host:
        if name in ENGINES:
            with Command(["backend", "--run-dir", str(host.run_dir), "--engine", name, *options]) as backend:
                backend.readline()
                yield host.run_dir
        else:
            with BACKENDS[name](host.run_dir):
                yield host.run_dir


@contextlib.contextmanager
def serving_really(engine: str, backend_type: str) -> Iterator[None]:
    """Our backend serves the disks of this type of this machine's own Xen. UsageError for no engine of ours."""
    if engine not in ENGINES:
        raise UsageError(f"a backend for this machine's own Xen is one of {', '.join(ENGINES)}, not {engine!r}")
    words = ["--platform", "xen", "--engine", engine, "--backend-type", backend_type]
    with Command(["backend", *words]) as backend:
        backend.readline()
        yield


def run_backend_cases(xen: Xen, cases: Iterable[Case[Lab]] | None = None, disk: str = DISK) -> Iterator[Outcome[Lab]]:
    """Run cases, all unless they are said, against whoever serves the disks there; the Xen is closed with the last."""
    with xen:
        yield from run_cases(BACKEND.select() if cases is None else cases, lambda _case: Lab(xen, disk))
