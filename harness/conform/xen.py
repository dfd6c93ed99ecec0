"""The Xen that a conformance run is in, as its toolstack sees it: domains, devices, and what is left of them."""

import abc
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from xenblk.abi import DOM0, Domid
from xenblk.platform import Platform
from xenblk.toolstack import BACKEND_TYPE, backend_path, frontend_path
from xenblk.vdev import vdev_name
from xenblk.xenstore.client import Xenstore, XenstoreTransaction


class Xen(abc.ABC):
    """A Xen in which somebody serves the disks of domain `backend_id` that are below its backend/`backend_type`.

    What differs between an emulated one and a real one is abstract here. `store`, a toolstack's, is closed with it.
    """

    has_own_guests: bool
    """Whether `guest` makes domains, that can die and may not do everything: else all are the domain we run in."""

    def __init__(self, store: Xenstore, backend_id: Domid = DOM0, backend_type: str = BACKEND_TYPE) -> None:
        self.backend_id: Final = backend_id
        self.backend_type: Final = backend_type
        self.store: Final = store
        self._undo = contextlib.ExitStack()
        self._undo.callback(store.close)

    @abc.abstractmethod
    def guest(self) -> contextlib.AbstractContextManager[Platform]:
        """A domain with this process as its kernel; all that it has is given back when the block ends."""

    @abc.abstractmethod
    def handle(self, wanted: int) -> int:
        """The number of a new device, `wanted` where a guest's devices are its own."""

    @abc.abstractmethod
    def pins(self, domid: Domid) -> int:
        """How many pins there are on a domain's pages, also after it died; only where guests are domains."""

    @abc.abstractmethod
    def disk_nodes(self, disk: str) -> dict[str, str | None]:
        """What a toolstack tells the backend of its disk."""

    @abc.abstractmethod
    def resized(self, disk: Path) -> None:
        """A file that is a disk has another size now."""

    def attach(
        self, domid: Domid, handle: int, back: Mapping[str, str | None], front: Mapping[str, str | None]
    ) -> None:
        """Make a device's nodes: what libxl writes, with these changes; None leaves a node out."""
        paths = frontend_path(domid, handle), self._backend_path(domid, handle)
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
        front, back = frontend_path(domid, handle), self._backend_path(domid, handle)
        if self.store.exists(front):
            self.store.rm(front)
        self.store.prune(back)
        self.store.prune(back.replace("/backend/", "/error/backend/", 1))

    def _backend_path(self, domid: Domid, handle: int) -> str:
        return backend_path(self.backend_id, domid, handle, self.backend_type)

    def close(self) -> None:
        """Leave; the Xen goes on."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _make(store: XenstoreTransaction, path: str, perms: list[str], nodes: Mapping[str, str | None]) -> None:
    store.mkdir(path)
    store.set_perms(path, perms)
    for key, value in nodes.items():
        if value is not None:
            store.write(f"{path}/{key}", value)
