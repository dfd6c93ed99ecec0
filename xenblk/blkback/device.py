"""A virtual block device as its backend keeps it: its life by the table in xenbus.py.

Policy (`params`, `mode`, `online`) is read from the backend's own directory, which only the toolstack and the backend
may write; what the frontend writes is read once per connection by frontend_keys.py. offers.py has what is published.
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from xenblk.abi import Domid
from xenblk.blkback.charging import Charging
from xenblk.blkback.connection import Connection
from xenblk.blkback.device_nodes import DISK_KEYS, DeviceNodes
from xenblk.blkback.frontend_keys import FrontendKeyError, FrontendKeys, parse_uint, read_keys
from xenblk.blkback.journal import close_all, device_name, find_journals
from xenblk.blkback.offers import FEATURE_OF, Nodes, disk_nodes, feature_nodes, sectors, transport_nodes
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.promise import read_promise
from xenblk.blkif import BlkifOp
from xenblk.disk import SECTOR_SIZES, Disk, FileDisk
from xenblk.errors import BlkifPeerError, DiskError, GrantError, HostError, RingPeerError, XenblkError
from xenblk.platform import Platform
from xenblk.xenbus import BackendAction, XenbusState, backend_action, parse_state
from xenblk.xenstore.client import Xenstore

_log: Final = logging.getLogger("xenblk.blkback")

_TAKEOVER_S: Final = 1.0
"""How long a frontend has to start over after a backend died under it, before its old ring is looked at."""
_GIVE_UP_S: Final = 5.0
"""How long if that ring cannot be served: a busy frontend may notice late, and is lost if it is refused."""

OpenDisk = Callable[[str, bool, int], Disk]
"""Opens what a device's `params` names: params, read_only, sector_size. DiskError if it cannot be used."""


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
        self._nodes = DeviceNodes(store, path)
        self._parameters = parameters
        self._charging = charging
        self._name = device_name(platform.domid, self.frontend_id, path.rpartition("/")[2])
        self._open = open_disk
        self._disk: Disk | None = None
        self._spec: str | None = None
        self._unsupported: set[str] = set()
        self._connection: Connection | None = None
        self._foreign = False  # the frontend may be on a ring that another backend served
        self._takeover_s: float | None = None  # when such a frontend is looked at, and
        self._give_up_s = 0.0  # from when on it is refused
        self._inheriting = False  # another backend's rings, which are not free yet
        self._inherited = False  # the connection was another backend's
        self._waited = False

    @property
    def frontend_state_path(self) -> str:
        """The node to watch."""
        return f"{self.frontend_path}/state"

    # Life

    def probe(self) -> None:
        """Offer the device, with its disk if that is known; or go on where another backend stopped.

        XenstoreError if the device's own nodes are not there.
        """
        frontend = parse_state(self._store.read(self.frontend_state_path, ""))
        connected = frontend in (XenbusState.INITIALISED, XenbusState.CONNECTED)
        if connected and self._nodes.shown_state is XenbusState.CONNECTED:
            self._nodes.state = XenbusState.CONNECTED
            self._inheriting = True
            self._inherit()
        else:
            self._begin()

    def _begin(self) -> None:
        if self._nodes.shown_state not in (XenbusState.INITIALISING, XenbusState.UNKNOWN):
            self._leave_time()
        self._nodes.write(transport_nodes(self._parameters))
        if self._disk is not None or self._open_disk():
            self._nodes.switch_state(XenbusState.INITWAIT)

    def _leave_time(self) -> None:
        """Another backend served this device, and on its ring lies what was answered among what was not.

        So a frontend that can start over is left the time to.
        """
        self._foreign = True
        now_s = time.monotonic()
        self._takeover_s, self._give_up_s = now_s + _TAKEOVER_S, now_s + _GIVE_UP_S

    def _inherit(self) -> None:
        """Go on for a backend that ended, on the same rings, and the frontend knows of nothing.

        Without a journal that fits them, or with a disk that ended with its backend, the frontend has to start over.
        """
        self._foreign = True
        if self._disk is None and not self._open_disk():
            self._inheriting = False
            return
        try:
            promise, keys = self._store.transact(
                lambda t: read_promise(t, self.path, self.frontend_path, self._parameters)
            )
            left = find_journals(self._platform.journals_dir(), self._name, keys)
        except BlockingIOError:
            if not self._waited:
                _log.warning("%s: another backend serves it, or its disk does; this one waits", self._name)
            self._waited = True
            return
        except BlkifPeerError as e:
            self._fatal(errno.EINVAL, str(e))
            return
        self._inheriting = False
        if left is None or not isinstance(self._disk, FileDisk):
            close_all(left or [])
            self._begin()
            return
        self._inherited = True
        self._leave_time()
        try:
            connected = self._make_connection(keys, offer=promise, left=left)
        finally:
            close_all(left)
        if connected:
            self._takeover_s, self._foreign = None, False
            self._nodes.announce({"sectors": sectors(self._disk)})  # maybe it was another one
        elif self._nodes.state is not XenbusState.CLOSING:
            self._begin()

    def frontend_changed(self) -> None:
        """Look at the frontend's state and do what the table says."""
        frontend = parse_state(self._store.read(self.frontend_state_path, ""))
        action = backend_action(self._nodes.state, frontend)
        _log.debug("%s: frontend %s, own %s: %s", self._name, frontend.name, self._nodes.state.name, action.name)
        if action is BackendAction.CONNECT:
            self._connect()
            return
        self._takeover_s = None
        self._foreign = self._foreign and frontend in (XenbusState.INITIALISED, XenbusState.CONNECTED)
        if action is not BackendAction.IGNORE:
            self._inheriting = False
        elif frontend is XenbusState.INITIALISING and (self._inheriting or self._inherited):
            # It saw the other backend end, not us take over.
            self._disconnect()
            self._begin()
            self._takeover_s, self._foreign = None, False
        if action is BackendAction.PREPARE:
            # A disk that could not be opened, perhaps can now: without one, InitWait would be for ever.
            if self._nodes.online and (self._disk is not None or self._open_disk()):
                self._nodes.switch_state(XenbusState.INITWAIT)
        elif action is BackendAction.CLOSING:
            self._nodes.switch_state(XenbusState.CLOSING)
        elif action in (BackendAction.CLOSE, BackendAction.UNREGISTER):
            self._disconnect()
            self._nodes.switch_state(XenbusState.CLOSED)
            if not self._nodes.online or not self._store.exists(self.frontend_path):
                self._unregister()
        elif action is BackendAction.REFUSE:
            self._fatal(errno.EINVAL, f"saw state {int(frontend)} at frontend")

    def own_node_changed(self, key: str) -> None:
        """The toolstack, or a hotplug script, wrote one of the device's own nodes."""
        if key == "online":
            self._online_changed()
        elif key == "state":
            self._own_state_changed()
        elif key in DISK_KEYS and self._disk is not None:
            if self._spec is not None and not self._nodes.is_still(self._spec):
                _log.warning("%s: a device keeps its disk %s as long as it lives", self._name, self._spec)
        elif key in DISK_KEYS and self._nodes.state is XenbusState.INITWAIT and self._open_disk():
            self.frontend_changed()

    def _online_changed(self) -> None:
        """A device that is to go, and is not in use, goes now."""
        frontend = parse_state(self._store.read(self.frontend_state_path, ""))
        in_use = frontend in (XenbusState.INITIALISED, XenbusState.CONNECTED, XenbusState.CLOSING)
        if not self._nodes.online and not in_use:
            self._unregister()

    def _own_state_changed(self) -> None:
        """A toolstack makes a device anew where it has just removed one, and its nodes never seemed to be gone."""
        if self._nodes.shown_state is XenbusState.INITIALISING is not self._nodes.state:
            self.vanished()

    def domain_released(self) -> None:
        """A domain ended, perhaps this frontend's: then nothing of it may stay mapped, or it never ends wholly."""
        if not self._store.is_domain_introduced(self.frontend_id):
            self._unregister()

    def tick(self) -> None:
        """A few times a second: what nobody tells us of."""
        if self._takeover_s is not None and time.monotonic() >= self._takeover_s:
            self.frontend_changed()
        if self._inheriting:
            self._inherit()
        if self._connection is not None and self._disk is not None:
            self._look_at_size(self._connection, self._disk)

    def close(self) -> None:
        """The backend stops: disconnect, tell the frontend, keep the nodes for the next backend."""
        connection = self._connection
        if self._parameters.keep_connected and isinstance(self._disk, FileDisk) and (connection or self._inheriting):
            self._connection = None
            if connection is not None:
                connection.leave()
        else:
            self._disconnect()
            self._nodes.switch_state(XenbusState.CLOSED)
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

    # The disk

    def _open_disk(self) -> bool:
        """Open the disk if anybody has said which; False if that failed, and everybody was told."""
        self._spec = self._nodes.disk
        if self._spec is None:
            return True
        mode = self._nodes.mode
        if mode is None:
            self._refuse_disk(errno.ENOENT, "reading mode: the toolstack must write `mode`, r or w, and did not")
            return False
        sector_size = self._nodes.sector_size
        if sector_size not in map(str, SECTOR_SIZES):
            self._refuse_disk(errno.EINVAL, f"`sector-size` is 512 or 4096, not {sector_size[:40]!r}")
            return False
        try:
            self._disk = self._open(self._spec, "w" not in mode, int(sector_size))
        except Exception as e:
            if not isinstance(e, DiskError | OSError):
                _log.exception("%s: a bug of what opens %s", self._name, self._spec)
            self._refuse_disk(errno.ENODEV, str(e))
            return False
        self._nodes.write({**self._disk_nodes(self._disk), **self._nodes.hotplug(self._spec)})
        return True

    def _refuse_disk(self, number: int, text: str) -> None:
        self._nodes.write({"hotplug-status": "error", "hotplug-error": text})
        self._fatal(number, text)
        if self._nodes.made_by_libxl:
            # libxl waits for InitWait first and looks at the error then; of Closing it would know nothing.
            self._nodes.switch_state(XenbusState.INITWAIT)

    def _disk_nodes(self, disk: Disk) -> Nodes:
        return {
            **feature_nodes(disk, self._nodes.discard_enable),
            **disk_nodes(disk, self._nodes.kind),
            **dict.fromkeys(self._unsupported, "0"),
        }

    def _found_unsupported(self, operation: int) -> None:
        """From a ring's thread: the disk has no way to do it, so it is offered no longer."""
        feature = FEATURE_OF[BlkifOp(operation)]
        self._unsupported.add(feature)
        try:
            self._nodes.write({feature: "0"})
        except XenblkError as e:
            _log.debug("%s: %s", self._name, e)

    def _look_at_size(self, connection: Connection, disk: Disk) -> None:
        before = disk.size
        try:
            size = disk.find_size()
        except OSError as e:
            _log.debug("%s: %s", self._name, e)
            return
        if size != before:
            _log.info("%s: the disk has %d bytes now, after %d", self._name, size, before)
            connection.resize(size)
            self._nodes.announce({"sectors": sectors(disk)})

    def _close_disk(self) -> None:
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.close()

    # Connecting

    def _connect(self) -> None:
        if self._takeover_s is not None and time.monotonic() < self._takeover_s:
            return
        self._disconnect()
        if self._disk is None:
            return
        try:
            keys = self._store.transact(lambda t: read_keys(t, self.frontend_path, self._parameters))
        except BlkifPeerError as e:
            self._refuse(e.number if isinstance(e, FrontendKeyError) else errno.EINVAL, str(e))
            return
        if self._make_connection(keys, foreign=self._foreign):
            self._takeover_s, self._foreign = None, False
            self._publish(self._disk)
            self._nodes.switch_state(XenbusState.CONNECTED)

    def _make_connection(self, keys: FrontendKeys, **how: Any) -> bool:
        """Connect; or False, and the frontend is refused."""
        assert self._disk is not None
        try:
            self._disk.find_size()
            self._connection = Connection(
                self._platform,
                self.frontend_id,
                self._name,
                keys,
                self._disk,
                self._parameters,
                self._charging,
                self._found_unsupported,
                **how,
            )
        except (BlkifPeerError, GrantError, RingPeerError, HostError) as e:
            self._refuse(errno.EINVAL, str(e))
            return False
        except (OSError, MemoryError) as e:
            # What we lack for one connection is no reason to end the others.
            self._fatal(getattr(e, "errno", None) or errno.ENOMEM, f"the backend has no room for a connection: {e}")
            return False
        return True

    def _refuse(self, number: int, text: str) -> None:
        """The frontend cannot be served as it is, unless it starts over yet."""
        now_s = time.monotonic()
        if self._takeover_s is None or now_s >= self._give_up_s:
            self._fatal(number, text)
        else:
            _log.info("%s: waits for the frontend to start over: %s", self._name, text)
            self._takeover_s = now_s + _TAKEOVER_S

    def _publish(self, disk: Disk) -> None:
        connection = self._connection
        offered = self._parameters.offers_persistent if connection is None else connection.offer.persistent
        persistent = {"feature-persistent": str(int(offered))}
        self._nodes.write({**transport_nodes(self._parameters), **persistent, **self._disk_nodes(disk)})

    def _disconnect(self) -> None:
        # Forgotten first: what fails to close once is not closed twice.
        connection, self._connection = self._connection, None
        self._inheriting = self._inherited = False
        if connection is not None:
            connection.close()

    def _unregister(self) -> None:
        """Leave for good. Nodes that libxl waits at are its own to remove: the device is done when they are gone."""
        self._disconnect()
        self._nodes.switch_state(XenbusState.CLOSED)
        self._close_disk()
        if not self._nodes.made_by_libxl:
            self._nodes.remove()
            self.unregistered = True

    def _fatal(self, number: int, text: str) -> None:
        """Say what is wrong, and go to Closing (xenbus_dev_fatal)."""
        _log.warning("%s: %s", self._name, text)
        self._takeover_s = None
        self._disconnect()
        self._nodes.record_error(number, text)
        self._nodes.switch_state(XenbusState.CLOSING)
