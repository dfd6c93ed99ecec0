"""The emulated Xen that a conformance run is in."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from xenblk.abi import DOM0, Domid
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import HostError
from xenblk.harness.conform.xen import Xen
from xenblk.xenstore.client import Xenstore


class EmulatedXen(Xen):
    """The one in `run_dir`: each guest is a domain of its own. `nodes` are added to each backend's."""

    has_own_guests = True

    def __init__(self, run_dir: Path, backend_id: Domid = DOM0, *, nodes: Mapping[str, str] | None = None) -> None:
        self.run_dir = run_dir
        self._nodes = dict(nodes or {})
        directory = RunDirectory(run_dir)
        with contextlib.ExitStack() as undo:
            self._control = ControlClient(directory.control)
            undo.callback(self._control.close)
            super().__init__(Xenstore(str(directory.xenstore(DOM0))), backend_id)
            self._undo.callback(undo.pop_all().close)

    @contextlib.contextmanager
    def guest(self) -> Iterator[EmulatedPlatform]:
        """A new domain; gone, crashed if need be, when the block ends."""
        domid = Domid(self._control.call("create", domid=None)[0]["domid"])
        try:
            platform = EmulatedPlatform(self.run_dir, domid)
            try:
                yield platform
            finally:
                platform.close()
        finally:
            with contextlib.suppress(HostError):
                self._control.call("destroy", domid=domid)  # if its kernel's end has not done that

    def handle(self, wanted: int) -> int:
        """See Xen."""
        return wanted

    def pins(self, domid: Domid) -> int:
        """See Xen."""
        domains = self._control.call("status")[0]["domains"]
        return sum(domain["pins"] for domain in domains if domain["domid"] == domid)

    def disk_nodes(self, disk: str) -> dict[str, str | None]:
        """See Xen."""
        return {"type": "file", "params": disk, **self._nodes}

    def resized(self, disk: Path) -> None:
        """Backends look for themselves."""
