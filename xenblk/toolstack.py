"""What a toolstack does with a disk: make its nodes, wait for its backend, take it away again.

The nodes and their permissions are libxl's (libxl_disk.c, libxl_device.c): the backend's directory belongs to the
backend's domain and the guest may read it, the frontend's the other way round. Permissions are set on a directory
before anything is put in it, because children inherit them.
"""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.disk import SECTOR_SIZES
from xenblk.errors import HostError, UsageError, XenstoreError
from xenblk.vdev import vdev_name
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_POLL_S: Final = 0.005
MODES: Final = ("r", "w")
DEVICE_TYPES: Final = ("disk", "cdrom")
BACKEND_TYPE: Final = "vbd"
"""The folder of a domain's `backend` that has block devices, unless somebody chooses another."""


def check_backend_type(name: str) -> None:
    """UsageError unless `name` can be the name of such a folder."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise UsageError(f"a backend's type is 1 to 64 letters, digits, - and _, not {name[:80]!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class DiskOptions:
    """What a toolstack may say of a disk beside where it is: `sector_size`, 512 unless the disk has one, in bytes.

    `discard_enable` lets the backend offer discard, if the disk has it. A frontend whose backend is not `trusted`
    shares no page with it but those of its pool. `backend_type` says which of a domain's backends is to serve it, and
    `backend_nodes` what else that one needs in its directory, or needs otherwise. UsageError for what no disk has.
    """

    sector_size: int | None = None
    device_type: str = "disk"
    removable: bool = False
    discard_enable: bool = True
    trusted: bool = True
    backend_type: str = BACKEND_TYPE
    backend_nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sector_size not in (None, *SECTOR_SIZES):
            raise UsageError(f"a disk's sector size is 512 or 4096 bytes, not {self.sector_size}")
        if self.device_type not in DEVICE_TYPES:
            raise UsageError(f"a device is a disk or a cdrom, not {self.device_type!r}")
        check_backend_type(self.backend_type)
        for key in self.backend_nodes:
            if not re.fullmatch(r"[A-Za-z0-9_@-]{1,64}", key):
                raise UsageError(f"a node's name is 1 to 64 letters, digits, - _ and @, not {key[:80]!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class DiskInfo:
    """One attached disk, as `xl block-list` shows it."""

    domid: Domid
    handle: int
    backend_id: Domid
    params: str
    mode: str
    frontend_state: XenbusState
    backend_state: XenbusState

    @property
    def vdev(self) -> str:
        """Its device name."""
        return vdev_name(self.handle)


def frontend_path(domid: Domid, handle: int) -> str:
    """The frontend's directory."""
    return f"/local/domain/{domid}/device/vbd/{handle}"


def backend_path(backend_id: Domid, domid: Domid, handle: int, backend_type: str = BACKEND_TYPE) -> str:
    """The backend's directory."""
    return f"/local/domain/{backend_id}/backend/{backend_type}/{domid}/{handle}"


def attach(
    store: Xenstore,
    domid: Domid,
    handle: int,
    params: str,
    mode: str = "w",
    backend_id: Domid = DOM0,
    timeout_s: float = 10.0,
    options: DiskOptions | None = None,
) -> None:
    """Give domain `domid` a disk and wait until its backend has opened it.

    UsageError for a disk that exists or a bad mode; HostError with the backend's own sentence if it cannot open
    `params`, or if no backend answers; the nodes are gone again then.
    """
    if mode not in MODES:
        raise UsageError(f"a disk's mode is r (read-only) or w (read-write), not {mode!r}")
    if store.exists(frontend_path(domid, handle)):
        raise UsageError(f"domain {domid} has a disk {vdev_name(handle)} already")
    wanted = options or DiskOptions()
    back = backend_path(backend_id, domid, handle, wanted.backend_type)
    store.transact(lambda transaction: _make_nodes(transaction, domid, handle, params, mode, backend_id, wanted))
    try:
        _wait_for_hotplug(store, back, timeout_s)
    except BaseException:
        _remove_nodes(store, frontend_path(domid, handle), back)
        raise


def _make_nodes(
    store: XenstoreTransaction,
    domid: Domid,
    handle: int,
    params: str,
    mode: str,
    backend_id: Domid,
    options: DiskOptions,
) -> None:
    front, back = frontend_path(domid, handle), backend_path(backend_id, domid, handle, options.backend_type)
    _make(
        store,
        back,
        [f"n{backend_id}", f"r{domid}"],
        {
            "frontend": front,
            "frontend-id": str(domid),
            "online": "1",
            "removable": str(int(options.removable)),
            "bootable": "1",
            "state": str(int(XenbusState.INITIALISING)),
            "dev": vdev_name(handle),
            "type": "file",
            "params": params,
            "mode": mode,
            "device-type": options.device_type,
            "discard-enable": str(int(options.discard_enable)),
            **options.backend_nodes,
        },
    )
    if options.sector_size is not None:
        store.write(f"{back}/sector-size", str(options.sector_size))
    _make(
        store,
        front,
        [f"n{domid}", f"r{backend_id}"],
        {
            "backend": back,
            "backend-id": str(backend_id),
            "state": str(int(XenbusState.INITIALISING)),
            "virtual-device": str(handle),
            "device-type": options.device_type,
            "trusted": str(int(options.trusted)),
        },
    )


def _make(store: XenstoreTransaction, path: str, perms: list[str], nodes: dict[str, str]) -> None:
    store.mkdir(path)
    store.set_perms(path, perms)
    for key, value in nodes.items():
        store.write(f"{path}/{key}", value)


def _wait_for_hotplug(store: Xenstore, back: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (status := store.read(f"{back}/hotplug-status", "")) != "connected":
        if status == "error":
            raise HostError("ENODEV", store.read(f"{back}/hotplug-error", "the backend could not open the disk"))
        if time.monotonic() > deadline_s:
            raise HostError("ETIMEDOUT", f"no backend took the disk within {timeout_s:g} s: start `xenblk backend`")
        time.sleep(_POLL_S)


def detach(store: Xenstore, domid: Domid, handle: int, timeout_s: float = 10.0) -> None:
    """Take a disk away: ask both ends to close, wait for the backend, remove what is left. UsageError if none."""
    front = frontend_path(domid, handle)
    try:
        back = store.read(f"{front}/backend")
    except XenstoreError:
        raise UsageError(f"domain {domid} has no disk {vdev_name(handle)}") from None

    def ask(transaction: XenstoreTransaction) -> None:
        if transaction.exists(f"{back}/state"):
            transaction.write(f"{back}/online", "0")
            # One that has closed has nothing to do, and may never look here again.
            if parse_state(transaction.read(f"{back}/state")) is not XenbusState.CLOSED:
                transaction.write(f"{back}/state", str(int(XenbusState.CLOSING)))

    store.transact(ask)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if parse_state(store.read(f"{back}/state", "")) in (XenbusState.CLOSED, XenbusState.UNKNOWN):
            break
        time.sleep(_POLL_S)
    _remove_nodes(store, front, back)


def _remove_nodes(store: Xenstore, front: str, back: str) -> None:
    if store.exists(front):
        store.rm(front)
    store.prune(back)
    store.prune(back.replace("/backend/", "/error/backend/", 1))


def disks(store: Xenstore, domid: Domid | None = None) -> list[DiskInfo]:
    """The disks of one domain, or of all."""
    domids = [int(name) for name in store.directory("/local/domain")] if domid is None else [domid]
    found = []
    for owner in sorted(domids):
        root = f"/local/domain/{owner}/device/vbd"
        if store.exists(root):
            found += [_info(store, Domid(owner), int(handle)) for handle in store.directory(root)]
    return found


def _info(store: Xenstore, domid: Domid, handle: int) -> DiskInfo:
    front = frontend_path(domid, handle)
    back = store.read(f"{front}/backend", "")
    return DiskInfo(
        domid=domid,
        handle=handle,
        backend_id=Domid(int(store.read(f"{front}/backend-id", "0"))),
        params=store.read(f"{back}/params", "?"),
        mode=store.read(f"{back}/mode", "?"),
        frontend_state=parse_state(store.read(f"{front}/state", "")),
        backend_state=parse_state(store.read(f"{back}/state", "")),
    )
