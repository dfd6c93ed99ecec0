"""The Xen that a conformance run is in, as its toolstack sees it: domains, devices, and what is left of them."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from xenblk.abi import DOM0, Domid
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import HostError
from xenblk.toolstack import backend_path, frontend_path
from xenblk.vdev import vdev_name
from xenblk.xenstore.client import Xenstore, XenstoreTransaction


class Xen:
    """The emulated Xen in `run_dir`, in which somebody serves the disks of domain `backend_id`."""

    def __init__(self, run_dir: Path, backend_id: Domid = DOM0) -> None:
        self.run_dir = run_dir
        self.backend_id = backend_id
        directory = RunDirectory(run_dir)
        with contextlib.ExitStack() as undo:
            self._control = ControlClient(directory.control)
            undo.callback(self._control.close)
            self.store = undo.enter_context(Xenstore(str(directory.xenstore(DOM0))))
            self._undo = undo.pop_all()

    @contextlib.contextmanager
    def guest(self) -> Iterator[EmulatedPlatform]:
        """A new domain with this process as its kernel; gone, crashed if need be, when the block ends."""
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

    def pins(self, domid: Domid) -> int:
        """How many pins there are on a domain's pages, also after it died."""
        domains = self._control.call("status")[0]["domains"]
        return sum(domain["pins"] for domain in domains if domain["domid"] == domid)

    def attach(
        self, domid: Domid, handle: int, back: Mapping[str, str | None], front: Mapping[str, str | None]
    ) -> None:
        """Make a device's nodes: what libxl writes, with these changes; None leaves a node out."""
        paths = frontend_path(domid, handle), backend_path(self.backend_id, domid, handle)
        front_nodes: dict[str, str | None] = {
            "backend": paths[1],
            "backend-id": str(self.backend_id),
            "virtual-device": str(handle),
            "device-type": "disk",
            "state": "1",
            **front,
        }
        back_nodes: dict[str, str | None] = {
            "frontend": paths[0],
            "frontend-id": str(domid),
            "online": "1",
            "removable": "0",
            "bootable": "1",
            "dev": vdev_name(handle),
            "type": "file",
            "mode": "w",
            "device-type": "disk",
            "state": "1",
            **back,
        }

        def make(transaction: XenstoreTransaction) -> None:
            _make(transaction, paths[0], [f"n{domid}", f"r{self.backend_id}"], front_nodes)
            _make(transaction, paths[1], [f"n{self.backend_id}", f"r{domid}"], back_nodes)

        self.store.transact(make)

    def remove(self, domid: Domid, handle: int) -> None:
        """Remove what is left of a device's nodes."""
        front, back = frontend_path(domid, handle), backend_path(self.backend_id, domid, handle)
        if self.store.exists(front):
            self.store.rm(front)
        self.store.prune(back)
        self.store.prune(back.replace("/backend/", "/error/backend/", 1))

    def close(self) -> None:
        """Leave; the Xen goes on."""
        self._undo.close()

    def __enter__(self) -> "Xen":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _make(store: XenstoreTransaction, path: str, perms: list[str], nodes: Mapping[str, str | None]) -> None:
    store.mkdir(path)
    store.set_perms(path, perms)
    for key, value in nodes.items():
        if value is not None:
            store.write(f"{path}/{key}", value)
