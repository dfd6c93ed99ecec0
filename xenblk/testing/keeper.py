"""One host process for many tests, one after the other: it is started anew only if a test left something in it."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from xenblk.abi import DOM0
from xenblk.emulated.control import ControlClient
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import XenblkError
from xenblk.processes import HostProcess
from xenblk.xenstore.client import Xenstore

_SETTLE_S: Final = 1.0
"""How long a host has to notice that processes ended."""

Contents = tuple[list[int], dict[str, str]]


class HostKeeper:
    """Lends a host that nobody seems to have used before. `close` at the end of all tests."""

    def __init__(self) -> None:
        self._process: HostProcess | None = None
        self._fresh: Contents = ([], {})

    @contextlib.contextmanager
    def lend(self) -> Iterator[HostProcess]:
        """A host with no domain but 0 and nothing in xenstore, for one borrower at a time."""
        if self._process is None or not self._process.command.running():
            self.close()
            self._process = HostProcess()
            self._fresh = _contents(self._process)
        try:
            yield self._process
        finally:
            if not self._is_as_before(self._process):
                self.close()

    def _is_as_before(self, process: HostProcess) -> bool:
        deadline_s = time.monotonic() + _SETTLE_S
        try:
            while _contents(process) != self._fresh:
                if time.monotonic() > deadline_s:
                    return False
                time.sleep(0.01)
        except XenblkError:
            return False
        return True

    def close(self) -> None:
        """Stop the host; the next borrower gets another."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def __enter__(self) -> "HostKeeper":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _contents(process: HostProcess) -> Contents:
    """The domains, dying ones too, and every node of xenstore."""
    directory = RunDirectory(process.run_dir)
    control = ControlClient(directory.control)
    try:
        with Xenstore(str(directory.xenstore(DOM0))) as store:
            domids = [domain["domid"] for domain in control.call("status")[0]["domains"]]
            return domids, dict(nodes(store, ""))
    finally:
        control.close()


def nodes(store: Xenstore, path: str) -> Iterator[tuple[str, str]]:
    """Path and value of every node below `path`, which is empty for the root, in xenstore's order."""
    for name in store.directory(path or "/"):
        child = f"{path}/{name}"
        yield child, store.read(child, "")
        yield from nodes(store, child)
