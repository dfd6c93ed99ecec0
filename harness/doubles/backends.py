"""Doubles of known backends: on the wire as these, and slow. Each serves disks of this project to any frontend.

with BACKENDS["qemu"](run_dir):
    ...                           # attach disks to domains, as with `xenblk backend`
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from xenblk.abi import DOM0, SECTOR_SIZE, Domid, EvtchnPort, GrantRef
from xenblk.blkif import ABIS, NATIVE, VDISK_READONLY
from xenblk.disk import Disk, open_disk
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.errors import BlkifPeerError, PeerGoneError, XenblkError, XenstoreError
from xenblk.harness.doubles.backend_quirks import QUIRKS, BackendQuirks
from xenblk.harness.doubles.backend_requests import RequestPath
from xenblk.harness.wire.back_ring import RawBackRing
from xenblk.harness.wire.backend import RawBackend
from xenblk.platform import Platform
from xenblk.xenbus import BackendAction, XenbusState, backend_action, parse_state

_log: Final = logging.getLogger("xenblk.doubles")

_IDLE_S: Final = 0.001
_MAX_INDEX: Final = 0xFFFFFFFF
_DEVICE_DEPTH: Final = 7
"""Slashes in /local/domain/0/backend/vbd/1/51712."""


class DeviceDouble:
    """One disk as a known backend serves it. Calls come from one thread."""

    def __init__(self, quirks: BackendQuirks, platform: Platform, domid: Domid, handle: int, sector_size: int) -> None:
        self.backend = RawBackend(platform, domid, handle)
        self.gone = False
        self._quirks = quirks
        self._sector_size = sector_size
        self._disk: Disk | None = None
        self._path: RequestPath | None = None
        self._state = XenbusState.INITIALISING

    def probe(self) -> None:
        """Open the disk, publish what stands there before InitWait."""
        try:
            params, mode = (self._own(name) for name in ("params", "mode"))
            self._disk = open_disk(params, "w" not in mode)
        except (XenblkError, OSError) as e:
            self.backend.write({"hotplug-status": "error", "hotplug-error": str(e), **self._quirks.failed_probe_nodes})
            self._refuse(e)
            return
        nodes = self._filled(self._quirks.probe_nodes)
        if self.backend.store.read(f"{self.backend.path}/discard-enable", "1") == "0":
            nodes = {name: value for name, value in nodes.items() if "discard" not in name}
        self.backend.write({**nodes, "hotplug-status": "connected"})
        self._switch(XenbusState.INITWAIT)

    def _own(self, name: str) -> str:
        return self.backend.store.read(f"{self.backend.path}/{name}")

    def _filled(self, nodes: Mapping[str, str]) -> dict[str, str]:
        assert self._disk is not None
        unit = self._sector_size if self._quirks.wide_units else SECTOR_SIZE
        info = VDISK_READONLY if self._disk.read_only else 0
        values = {"sectors": self._disk.size // unit, "sector_size": self._sector_size, "info": info}
        return {name: value.format(**values) for name, value in nodes.items()}

    def frontend_changed(self) -> None:
        """Follow the frontend."""
        text = self.backend.store.read(f"{self.backend.frontend_path}/state", "")
        if not self._quirks.garbled_is_unknown and text and not text.isdecimal():
            return
        action = backend_action(self._state, parse_state(text))  # of what was looked at, not of what is there by now
        if action is BackendAction.CONNECT:
            self._connect()
        elif action is BackendAction.PREPARE:
            self._switch(XenbusState.INITWAIT)
        elif action is BackendAction.CLOSING:
            self._switch(XenbusState.CLOSING)
        elif action is BackendAction.REFUSE and self._quirks.refuses_states:
            self._refuse(BlkifPeerError(f"saw state {int(self.backend.frontend_state)} at frontend"))
        elif action in (BackendAction.CLOSE, BackendAction.UNREGISTER):
            self._disconnect()
            self._switch(XenbusState.CLOSED)
            self.online_changed()

    def online_changed(self) -> None:
        """Leave for good if the toolstack wants that, or the frontend is gone, and nobody uses the disk."""
        store = self.backend.store
        wanted = store.read(f"{self.backend.path}/online", "0") == "1" and store.exists(self.backend.frontend_path)
        in_use = (XenbusState.INITIALISED, XenbusState.CONNECTED, XenbusState.CLOSING)
        refused = self._state is XenbusState.CLOSING  # and stays so until its frontend is Closed, or gone
        if not wanted and not refused and self.backend.frontend_state not in in_use:
            self._disconnect()
            self._switch(XenbusState.CLOSED)
            store.prune(self.backend.path)
            self.gone = True

    def _connect(self) -> None:
        self._disconnect()
        if self._disk is None:
            return
        try:
            persistent = self._attach(self.backend.frontend_keys())
        except (XenblkError, OSError) as e:
            self._refuse(e)
            return
        self._path = RequestPath(
            self._quirks, self.backend, self._disk, persistent=persistent, sector_size=self._sector_size
        )
        self.backend.write(self._filled(self._quirks.connect_nodes))
        self._switch(XenbusState.CONNECTED)

    def _attach(self, keys: Mapping[str, str]) -> bool:
        """Map what the frontend's keys lead to; whether grants are kept. BlkifPeerError for keys that are refused."""
        quirks = self._quirks
        abi = quirks.default_abi
        if "protocol" in keys:
            if keys["protocol"] not in ABIS and quirks.refuses_unknown_protocol:
                raise BlkifPeerError(f"unknown fe protocol {keys['protocol']}")
            abi = ABIS.get(keys["protocol"], NATIVE)
        persistent = keys.get("feature-persistent", "0")
        if quirks.strict_persistent_key and persistent not in ("0", "1"):
            raise BlkifPeerError(f"invalid feature-persistent {persistent!r}")
        large = keys.get("feature-large-sector-size", "0") == "1"
        if quirks.wants_large_sectors and self._sector_size != SECTOR_SIZE and not large:
            raise BlkifPeerError(f"logical_block_size != {SECTOR_SIZE} not supported by frontend")
        nr_queues = _uint(keys, "multi-queue-num-queues", "1") if quirks.max_queues > 1 else 1
        if not 0 < nr_queues <= quirks.max_queues:
            raise BlkifPeerError(f"guest requested {nr_queues} queues, exceeding the maximum of {quirks.max_queues}")
        for queue in range(nr_queues):
            prefix = f"queue-{queue}/" if nr_queues > 1 else ""
            refs = ring_refs_as(quirks, keys, prefix)
            ring = self.backend.attach_ring(refs, EvtchnPort(_uint(keys, f"{prefix}event-channel")), abi)
            if not quirks.attaches:
                ring.req_cons = ring.rsp_prod_pvt = 0
            elif ring.pending > ring.nr_ents:
                raise BlkifPeerError(f"{ring.pending} requests are unanswered on a ring of {ring.nr_ents}")
        return persistent == "1" and quirks.max_persistent_grants > 0

    def _disconnect(self) -> None:
        self._path = None
        self.backend.disconnect()

    def _refuse(self, why: Exception) -> None:
        self._disconnect()
        if not self._quirks.says_refusals:
            _log.info("%s: %s", self.backend.path, why)
            return
        home, _, node = self.backend.path.partition("/backend/")
        text = str(why).encode("ascii", "replace").decode()
        self.backend.store.write(f"{home}/error/backend/{node}/error", f"22 {text}")
        self._switch(XenbusState.CLOSING)

    def _switch(self, state: XenbusState) -> None:
        self._state = state
        if self.backend.store.exists(f"{self.backend.path}/state"):
            self.backend.switch(state)

    def serve(self) -> bool:
        """Answer what is on the rings; whether there was anything."""
        served = any([self._serve(ring) for ring in self.backend.rings]) if self._path else False
        if served and self._quirks.follows_size:
            self._look_at_size()
        return served

    def _look_at_size(self) -> None:
        assert self._disk is not None
        before = self._disk.size
        if self._disk.find_size() != before:
            sectors = self._filled(self._quirks.connect_nodes)["sectors"]
            self.backend.write({"sectors": sectors, "state": str(int(self._state))})

    def _serve(self, ring: RawBackRing) -> bool:
        served = False
        # More unanswered requests than slots: no honest frontend. Its ring stands still until it connects again, or is
        # answered with hardly an end.
        believed = _MAX_INDEX if self._quirks.trusts_req_prod else ring.nr_ents
        for _ in range(ring.nr_ents):  # then it is the next ring's turn
            if self._path is None or not 0 < ring.pending <= believed:
                break
            request = ring.take()
            ring.answer(request, self._path.carry_out(request), push=False)
            if ring.publish():
                ring.channel.notify()
            served = True
        if served:
            ring.ask_for_event()
        return served

    def close(self) -> None:
        """Give everything back; the nodes stay for the next backend."""
        self._disconnect()
        self._switch(XenbusState.CLOSED)
        self.backend.close()


class BackendDouble:
    """Serves every vbd of its domain as one known backend does. `run` in one thread, `stop` from any."""

    def __init__(self, quirks: BackendQuirks, platform: Platform, sector_size: int = SECTOR_SIZE) -> None:
        self._quirks = quirks
        self._platform = platform
        self._sector_size = sector_size
        self._store = platform.xenstore()
        self._root = f"/local/domain/{platform.domid}/backend/vbd"
        self._devices: dict[str, DeviceDouble] = {}
        self._stopping = False

    def run(self) -> None:
        """Serve until `stop`, or until xenstore goes away."""
        self._store.watch(self._root, self._root)
        try:
            while not self._stopping:
                busy = any([device.serve() for device in self._devices.values()])
                event = self._store.next_event(0 if busy else _IDLE_S)
                if event is not None:
                    self._on_event(event.path, event.token)
        except PeerGoneError as e:
            _log.debug("%s", e)
        finally:
            for device in self._devices.values():
                with contextlib.suppress(XenblkError):
                    device.close()
            self._store.close()

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopping = True

    def _on_event(self, path: str, token: str) -> None:
        if token == self._root:
            if path.endswith("/state") or path.count("/") < _DEVICE_DEPTH + 1:
                self._look_for_devices()
            device = self._devices.get("/".join(path.split("/")[:8]))
            step = DeviceDouble.online_changed
            if device is None or not path.endswith("/online"):
                return
        else:
            device, step = self._devices.get(token), DeviceDouble.frontend_changed
        if device is not None:
            self._attend(device, step)

    def _attend(self, device: DeviceDouble, step: Callable[[DeviceDouble], None]) -> None:
        try:
            step(device)
        except XenstoreError as e:
            _log.debug("%s changed while it was read, which is an event: %s", device.backend.path, e)
        if device.gone:
            self._forget(device)

    def _look_for_devices(self) -> None:
        try:
            found = {
                f"{self._root}/{domid}/{handle}": (Domid(int(domid)), int(handle))
                for domid in self._store.directory(self._root)
                for handle in self._store.directory(f"{self._root}/{domid}")
                if self._store.exists(f"{self._root}/{domid}/{handle}/state")
            }
        except XenstoreError as e:
            _log.debug("%s changed while it was read, which is an event: %s", self._root, e)
            return
        for path in found.keys() - self._devices.keys():
            device = DeviceDouble(self._quirks, self._platform, *found[path], self._sector_size)
            self._devices[path] = device
            self._store.watch(f"{device.backend.frontend_path}/state", path)
            self._attend(device, DeviceDouble.probe)
        for path in self._devices.keys() - found.keys():
            self._forget(self._devices[path])

    def _forget(self, device: DeviceDouble) -> None:
        path = device.backend.path
        del self._devices[path]
        self._store.unwatch(f"{device.backend.frontend_path}/state", path)
        device.close()


def ring_refs_as(quirks: BackendQuirks, keys: Mapping[str, str], prefix: str) -> list[GrantRef]:
    """The pages of a ring as this backend reads the keys; BlkifPeerError if they are not there or too many."""
    said = keys.get("ring-page-order", "").isdecimal()  # what is no number is not there
    order = _uint(keys, "ring-page-order") if said else 0
    if order > quirks.max_ring_page_order:
        raise BlkifPeerError(f"requested ring page order {order} exceeds {quirks.max_ring_page_order}")
    if order == 0 and not (said and quirks.order_renames_ring_ref):
        return [GrantRef(_uint(keys, f"{prefix}ring-ref"))]
    return [GrantRef(_uint(keys, f"{prefix}ring-ref{page}")) for page in range(1 << order)]


def _uint(keys: Mapping[str, str], name: str, default: str = "") -> int:
    text = keys.get(name, default)
    if not (text.isascii() and text.isdecimal()) or int(text) > 0xFFFFFFFF:
        raise BlkifPeerError(f"reading {name}: {text[:40]!r} is no number")
    return int(text)


@contextlib.contextmanager
def serving_double(name: str, run_dir: Path, *, sector_size: int = SECTOR_SIZE) -> Iterator[None]:
    """A double that serves the disks of domain 0 of the Xen in `run_dir`, in a thread, for as long as this lasts."""
    platform = EmulatedPlatform(run_dir, DOM0)
    try:
        double = BackendDouble(QUIRKS[name], platform, sector_size)
        thread = threading.Thread(target=double.run, name=f"{name} double", daemon=True)
        thread.start()
        try:
            yield
        finally:
            double.stop()
            thread.join()
    finally:
        platform.close()


def _served(name: str) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    return lambda run_dir: serving_double(name, run_dir)


BACKENDS: Final = {name: _served(name) for name in QUIRKS}
"""By name, what serves the disks of domain 0 of the Xen in a run directory while its context lasts."""
