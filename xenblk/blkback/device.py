"""A virtual block device as its backend keeps it: the nodes it publishes, and its life by the table in xenbus.py.

Policy (`params`, `mode`, `online`) is read from the backend's own directory, which only the toolstack and the backend
may write; what the frontend writes is read once per connection by frontend_keys.py.
"""

import errno
import logging
from collections.abc import Callable
from typing import Final

from xenblk.abi import SECTOR_SIZE, Domid
from xenblk.blkback.charging import Charging
from xenblk.blkback.connection import Connection
from xenblk.blkback.frontend_keys import FrontendKeys, parse_uint, read_frontend_keys
from xenblk.blkback.parameters import BackendParameters
from xenblk.disk import Disk
from xenblk.errors import BlkifPeerError, DiskError, GrantError, HostError, RingPeerError, XenstoreError
from xenblk.platform import Platform
from xenblk.xenbus import BackendAction, XenbusState, backend_action, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_log: Final = logging.getLogger("xenblk.blkback")

VDISK_READONLY: Final = 4
"""Bit of the node `info` (io/blkif.h)."""

OpenDisk = Callable[[str, bool], Disk]
"""Opens what a device's `params` names; the second argument is read_only. DiskError if it cannot be used."""


class Vbd:
    """One device: `path` is its backend directory. Calls come from one thread; after `unregistered` it is done.

    `probe` comes first. A step that fails with what is not said here is a bug, and `failed` is to follow.
    """

    def __init__(
        self,
        platform: Platform,
        store: Xenstore,
        path: str,
        parameters: BackendParameters,
        open_disk: OpenDisk,
        charging: Charging | None = None,
    ) -> None:
        self.path = path
        self.frontend_path = store.read(f"{path}/frontend")
        self.frontend_id = Domid(parse_uint("frontend-id", store.read(f"{path}/frontend-id"), 0x7FEF))
        self.unregistered = False
        self._platform = platform
        self._store = store
        self._parameters = parameters
        self._charging = charging
        self._name = f"vbd-{platform.domid}-{self.frontend_id}-{path.rpartition('/')[2]}-0"
        self._disk: Disk | None = None
        self._connection: Connection | None = None
        self._own_state = XenbusState.INITIALISING
        self._open = open_disk

    @property
    def frontend_state_path(self) -> str:
        """The node to watch."""
        return f"{self.frontend_path}/state"

    # Life

    def probe(self) -> None:
        """Open the disk and offer it to the frontend. XenstoreError if the device's own nodes are not there."""
        params = self._store.read(f"{self.path}/params")
        read_only = "w" not in self._store.read(f"{self.path}/mode")
        try:
            self._disk = self._open(params, read_only)
        except Exception as e:
            if not isinstance(e, DiskError | OSError):
                _log.exception("%s: a bug of what opens %s", self._name, params)
            self._write_own({"hotplug-status": "error", "hotplug-error": str(e)})
            self._fatal(errno.ENODEV, str(e))
            return
        self._write_own({**self._transport_features(), "hotplug-status": "connected"})
        self._switch_state(XenbusState.INITWAIT)

    def frontend_changed(self) -> None:
        """Look at the frontend's state and do what the table says."""
        frontend = parse_state(self._store.read(self.frontend_state_path, ""))
        action = backend_action(self._own_state, frontend)
        _log.debug("%s: frontend %s, own %s: %s", self._name, frontend.name, self._own_state.name, action.name)
        if action is BackendAction.CONNECT:
            self._connect()
        elif action is BackendAction.PREPARE:
            self._switch_state(XenbusState.INITWAIT)
        elif action is BackendAction.CLOSING:
            self._switch_state(XenbusState.CLOSING)
        elif action in (BackendAction.CLOSE, BackendAction.UNREGISTER):
            self._disconnect()
            self._switch_state(XenbusState.CLOSED)
            if not self._online() or not self._store.exists(self.frontend_path):
                self._unregister()
        elif action is BackendAction.REFUSE:
            self._fatal(errno.EINVAL, f"saw state {int(frontend)} at frontend")

    def online_changed(self) -> None:
        """The toolstack wrote `online`: a device that is to go, and is not in use, goes now."""
        frontend = parse_state(self._store.read(self.frontend_state_path, ""))
        in_use = frontend in (XenbusState.INITIALISED, XenbusState.CONNECTED, XenbusState.CLOSING)
        if not self._online() and not in_use:
            self._unregister()

    def close(self) -> None:
        """The backend stops: disconnect, tell the frontend, keep the nodes for the next backend."""
        self._disconnect()
        self._switch_state(XenbusState.CLOSED)
        self._close_disk()

    def vanished(self) -> None:
        """The device's own nodes are gone: give everything back."""
        self.unregistered = True
        try:
            self._disconnect()
        finally:
            self._close_disk()

    def failed(self, bug: Exception) -> None:
        """A bug showed in the step before: disconnect, and say so unless there is nowhere to."""
        try:
            self._disconnect()
        finally:
            if not self.unregistered:
                self._fatal(errno.EIO, f"a bug of the backend: {type(bug).__name__}: {bug}")

    # Steps

    def _connect(self) -> None:
        self._disconnect()
        if self._disk is None:
            return
        try:
            keys = self._store.transact(self._read_frontend_keys)
            self._connection = Connection(
                self._platform, self.frontend_id, self._name, keys, self._disk, self._parameters, self._charging
            )
        except (BlkifPeerError, GrantError, RingPeerError, HostError) as e:
            self._fatal(errno.EINVAL, str(e))
            return
        except (OSError, MemoryError) as e:
            # What we lack for one connection is no reason to end the others.
            self._fatal(getattr(e, "errno", None) or errno.ENOMEM, f"the backend has no room for a connection: {e}")
            return
        self._write_own({**self._transport_features(), **self._disk_properties(self._disk)})
        self._switch_state(XenbusState.CONNECTED)

    def _read_frontend_keys(self, transaction: XenstoreTransaction) -> FrontendKeys:
        return read_frontend_keys(
            lambda key: transaction.read(f"{self.frontend_path}/{key}", "") or None, self._parameters
        )

    def _disconnect(self) -> None:
        # Forgotten first: what fails to close once is not closed twice.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _unregister(self) -> None:
        self._disconnect()
        self._switch_state(XenbusState.CLOSED)
        self._close_disk()
        self._store.prune(self.path)
        self.unregistered = True

    def _close_disk(self) -> None:
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    # Nodes

    def _transport_features(self) -> dict[str, str]:
        return {
            "feature-persistent": str(int(self._parameters.offers_persistent)),
            "feature-flush-cache": "1",
            "feature-barrier": "0",
            "max-ring-page-order": str(self._parameters.max_ring_page_order),
            "multi-queue-max-queues": "1",
        }

    def _disk_properties(self, disk: Disk) -> dict[str, str]:
        return {
            "sectors": str(disk.size // SECTOR_SIZE),
            "sector-size": str(SECTOR_SIZE),
            "physical-sector-size": str(SECTOR_SIZE),
            "info": str(VDISK_READONLY if disk.read_only else 0),
        }

    def _online(self) -> bool:
        return self._store.read(f"{self.path}/online", "0") == "1"

    def _write_own(self, nodes: dict[str, str]) -> None:
        def write(transaction: XenstoreTransaction) -> None:
            for key, value in nodes.items():
                transaction.write(f"{self.path}/{key}", value)

        self._store.transact(write)

    def _switch_state(self, state: XenbusState) -> None:
        """Write the state, unless the node is gone: a removed device must not come back to life."""
        self._own_state = state

        def write(transaction: XenstoreTransaction) -> None:
            if transaction.exists(f"{self.path}/state"):
                transaction.write(f"{self.path}/state", str(int(state)))

        self._store.transact(write)

    def _fatal(self, number: int, text: str) -> None:
        """Say what is wrong where an operator of Xen looks for it, and go to Closing (xenbus_dev_fatal)."""
        _log.warning("%s: %s", self._name, text)
        self._disconnect()
        home, _, node = self.path.partition("/backend/")
        try:
            self._store.write(
                f"{home}/error/backend/{node}/error", f"{number} {text}".encode("ascii", "replace").decode()
            )
        except XenstoreError as e:
            _log.warning("%s: the error could not be recorded: %s", self._name, e)
        self._switch_state(XenbusState.CLOSING)
