"""A backend: finds the devices that a toolstack made for its domain, and serves them until it is stopped."""

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Final

from xenblk.blkback.charging import Charging
from xenblk.blkback.device import OpenDisk, Vbd
from xenblk.blkback.journal import named_in, remove_journals
from xenblk.blkback.parameter_nodes import ParameterNodes
from xenblk.blkback.parameters import BackendParameters
from xenblk.disk import Disk, open_disk
from xenblk.errors import BlkifPeerError, PeerGoneError, XenstoreError
from xenblk.platform import Platform
from xenblk.toolstack import BACKEND_TYPE, check_backend_type

_log: Final = logging.getLogger("xenblk.blkback")

_TOKEN_DEVICES: Final = "devices"
_TOKEN_PARAMETERS: Final = "parameters"
_TOKEN_RELEASED: Final = "released"
_TICK_S: Final = 0.25
"""How often every device looks at what nobody tells it of, such as the size of its disk."""


class Backend:
    """Serves every vbd below its domain's `backend/vbd`. `run` in one thread, `stop` from any.

    With `charging` the requests of all rings wait for charges by hand (charging.py). A `backend_type` other than vbd
    is the name of another folder, where no other backend of the domain looks. UsageError for what is no node's name.
    """

    def __init__(
        self,
        platform: Platform,
        parameters: BackendParameters | None = None,
        opener: OpenDisk | None = None,
        charging: Charging | None = None,
        backend_type: str = BACKEND_TYPE,
    ) -> None:
        check_backend_type(backend_type)
        self._platform = platform
        self._parameters = dataclasses.replace(parameters or BackendParameters())
        self._open_disk = opener or self._open_image
        self._charging = charging
        self._store = platform.xenstore()
        self._nodes = ParameterNodes(self._store, platform.domid, self._parameters, backend_type)
        self._root = f"/local/domain/{platform.domid}/backend/{backend_type}"
        self._devices: dict[str, Vbd] = {}
        self._stopping = False

    def _open_image(self, params: str, read_only: bool, sector_size: int) -> Disk:
        return open_disk(params, read_only, self._parameters.direct, sector_size)

    def run(self) -> None:
        """Serve until `stop`. PeerGoneError if xenstore goes away; whatever was mapped is given back even then."""
        try:
            self._store.watch(self._nodes.path, _TOKEN_PARAMETERS)  # first: who sees them may write them at once
            self._nodes.show()
            self._store.watch(self._root, _TOKEN_DEVICES)
            self._store.watch("@releaseDomain", _TOKEN_RELEASED)
            next_tick_s = time.monotonic() + _TICK_S
            while not self._stopping:
                event = self._store.next_event(max(0.0, next_tick_s - time.monotonic()))
                if event is not None:
                    self._on_event(event.path, event.token)
                self._nodes.show()
                if time.monotonic() >= next_tick_s:
                    self._tick()
                    next_tick_s = time.monotonic() + _TICK_S
        finally:
            self._close()

    def set_parameter(self, name: str, value: str) -> None:
        """Change one of the parameters that may change while it runs (parameters.CHANGEABLE), from any thread.

        UsageError, and nothing changes, for another name or a value that it cannot have.
        """
        self._parameters.change(name, value)

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopping = True

    def _on_event(self, path: str, token: str) -> None:
        try:
            if token == _TOKEN_DEVICES:
                self._on_own_node(path)
            elif token == _TOKEN_PARAMETERS:
                self._nodes.changed(path)
            elif token == _TOKEN_RELEASED:
                self._attend_all(Vbd.domain_released)
            elif token in self._devices:
                self._attend(token, Vbd.frontend_changed)
        except XenstoreError as e:
            # The toolstack may remove a device at any moment; its removal is an event of its own.
            _log.debug("%s: %s", path, e)
            self._look_for_devices()

    def _tick(self) -> None:
        self._attend_all(Vbd.tick)

    def _attend_all(self, step: Callable[[Vbd], None]) -> None:
        for path in list(self._devices):
            try:
                self._attend(path, step)
            except XenstoreError as e:
                _log.debug("%s: %s", path, e)

    def _on_own_node(self, path: str) -> None:
        device = "/".join(path.split("/")[:8])
        if device not in self._devices or path == device:
            self._look_for_devices()
        else:
            self._attend(device, lambda vbd: vbd.own_node_changed(path[len(device) + 1 :]))
            if device not in self._devices:
                self._look_for_devices()

    def _attend(self, path: str, step: Callable[[Vbd], None]) -> None:
        """Let one device take a step. A bug that shows in it is the end of that device's connection, and of no other's.

        XenstoreError is the caller's; PeerGoneError is everybody's.
        """
        device = self._devices[path]
        try:
            step(device)
        except (XenstoreError, PeerGoneError):
            raise
        except Exception as e:
            _log.exception("%s: a bug of the backend; the device is disconnected", path)
            self._give_up(device, e)
        if device.unregistered:
            del self._devices[path]
            self._store.unwatch(device.frontend_state_path, path)

    def _give_up(self, device: Vbd, bug: Exception) -> None:
        try:
            device.failed(bug)
        except PeerGoneError:
            raise
        except Exception:
            _log.exception("%s: a bug of the backend; the device may hold what it held", device.path)

    def _look_for_devices(self) -> None:
        try:
            found = set(self._list_devices())
        except XenstoreError as e:
            _log.debug("%s changed while it was read, which is an event: %s", self._root, e)
            return
        for path in found - self._devices.keys():
            self._add(path)
        for path in self._devices.keys() - found:
            self._forget(path)
        self._remove_journals()

    def _remove_journals(self) -> None:
        """Of devices that are gone, and went while no backend served them."""
        served = {"-".join(path.split("/")[-2:]) for path in self._devices}
        try:
            folder = self._platform.journals_dir()
            for name in named_in(folder, self._platform.domid):
                _, _, frontend, handle = name.split("-", 3)
                if f"{frontend}-{handle}" not in served and not self._has_device(frontend, handle):
                    remove_journals(folder, name)
        except (OSError, XenstoreError) as e:
            _log.debug("journals are left for the next look: %s", e)

    def _has_device(self, frontend: str, handle: str) -> bool:
        """Whether any backend of this domain has it, of whatever type."""
        home = self._root.rpartition("/")[0]
        types = self._store.directory(home) if self._store.exists(home) else []
        return any(self._store.exists(f"{home}/{name}/{frontend}/{handle}") for name in types)

    def _list_devices(self) -> list[str]:
        if not self._store.exists(self._root):
            return []
        return [
            f"{self._root}/{domid}/{handle}"
            for domid in self._store.directory(self._root)
            for handle in self._store.directory(f"{self._root}/{domid}")
            if self._store.exists(f"{self._root}/{domid}/{handle}/state")
        ]

    def _add(self, path: str) -> None:
        try:
            device = Vbd(self._platform, self._store, path, self._parameters, self._open_disk, self._charging)
            self._store.watch(device.frontend_state_path, path, one_pending=True)
        except (XenstoreError, BlkifPeerError) as e:
            _log.warning("%s is not a device that can be served: %s", path, e)
            return
        except PeerGoneError:
            raise
        except Exception:
            _log.exception("%s: a bug of the backend; the device is not served", path)
            return
        self._devices[path] = device
        try:
            self._attend(path, Vbd.probe)
        except XenstoreError as e:
            _log.warning("%s is not a device that can be served: %s", path, e)
            self._forget(path)

    def _forget(self, path: str) -> None:
        try:
            self._attend(path, Vbd.vanished)
        except XenstoreError as e:
            _log.warning("%s: %s", path, e)

    def _close(self) -> None:
        for device in self._devices.values():
            try:
                device.close()
            except Exception as e:
                _log.warning("%s: %s", device.path, e)
        self._devices.clear()
        try:
            self._nodes.remove()
        except Exception as e:
            _log.warning("%s: %s", self._nodes.path, e)
        self._store.close()
