"""xenblk inside a Python program: a host, disks attached to it, all gone at the end of a `with`.

The emulated Xen is a process of its own. Backend and frontend run in threads of this process, so that a disk may be
any Python object; every request still goes through ring, grants and event channel.
"""

import contextlib
import itertools
import threading
from typing import Any, Unpack

from xenblk.abi import DOM0, Domid
from xenblk.blkback import Backend, BackendParameters, Charging
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.blkfront.options import FrontendOptions, OptionValues
from xenblk.disk import Disk, open_disk
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import DiskError, HostError, PeerGoneError
from xenblk.object_disk import ObjectDisk
from xenblk.processes import HostProcess
from xenblk.toolstack import attach
from xenblk.vdev import parse_vdev

_OBJECT = "object:"


class Host:
    """An emulated Xen of this program's own, with a backend. `attach` disks as needed; `close` ends them all.

    With `charging`, requests are served only as this program charges for them (xenblk.blkback.charging).
    """

    def __init__(self, parameters: BackendParameters | None = None, charging: Charging | None = None) -> None:
        self._objects: dict[str, Any] = {}
        self._disks: dict[Domid, VirtualDisk] = {}
        self._direct = parameters is not None and parameters.direct
        self._numbers = itertools.count()
        with contextlib.ExitStack() as undo:
            self.run_dir = undo.enter_context(HostProcess()).run_dir
            self._control = ControlClient(RunDirectory(self.run_dir).control)
            undo.callback(self._control.close)
            platform = EmulatedPlatform(self.run_dir, DOM0)
            undo.callback(platform.close)
            self._store = undo.enter_context(platform.xenstore())
            self._start_backend(platform, parameters, charging, undo)
            undo.callback(self._close_disks)
            self._undo = undo.pop_all()

    def _start_backend(
        self,
        platform: EmulatedPlatform,
        parameters: BackendParameters | None,
        charging: Charging | None,
        undo: contextlib.ExitStack,
    ) -> None:
        backend = self._backend = Backend(platform, parameters, self._open_disk, charging)
        thread = threading.Thread(target=backend.run, name="backend", daemon=True)
        thread.start()
        undo.callback(thread.join)
        undo.callback(backend.stop)

    def _open_disk(self, params: str, read_only: bool, sector_size: int) -> Disk:
        if params not in self._objects:
            if params.startswith(_OBJECT):
                raise DiskError(f"there is no disk {params}")
            return open_disk(params, read_only, self._direct, sector_size)
        return ObjectDisk(self._objects[params], read_only=read_only)

    def attach(
        self,
        disk: Any,
        vdev: str = "xvda",
        mode: str = "w",
        **options: Unpack[OptionValues],
    ) -> VirtualDisk:
        """A new domain with this disk: a path, `memory:SIZE`, or any object with pread, pwrite, flush and size.

        The options are the frontend's (Blkfront): `engine`, `feature_persistent`, `nr_queues`, `ring_page_order`,
        `max_indirect_segments`, `protocol`, `trusted`, `recover`, `on_resize`, `poll_us`. UsageError for options that
        cannot be, DiskError or HostError with a sentence if the disk cannot be used. The object stays the caller's.
        """
        handle = parse_vdev(vdev)
        FrontendOptions(**options)  # refused before there is anything to undo
        params = disk if isinstance(disk, str) else f"{_OBJECT}{next(self._numbers)}"
        if not isinstance(disk, str):
            self._objects[params] = disk
        domid = Domid(self._control.call("create", domid=None)[0]["domid"])
        with contextlib.ExitStack() as undo:
            undo.callback(self._forget, domid, params)
            attach(self._store, domid, handle, params, mode)
            platform = EmulatedPlatform(self.run_dir, domid)
            undo.callback(platform.close)
            frontend = Blkfront(platform, handle, **options)
            try:
                frontend.connect()
            except BaseException:
                frontend.close()
                raise
            virtual_disk = self._disks[domid] = VirtualDisk(frontend, on_close=undo.pop_all().close)
        return virtual_disk

    def set_parameter(self, name: str, value: str) -> None:
        """Change a parameter of the backend while it runs: see Backend.set_parameter."""
        self._backend.set_parameter(name, value)

    def _forget(self, domid: Domid, params: str) -> None:
        self._disks.pop(domid, None)
        self._objects.pop(params, None)
        with contextlib.suppress(HostError, PeerGoneError):
            self._control.call("destroy", domid=domid)  # if its kernel's end has not done that

    def _close_disks(self) -> None:
        with contextlib.ExitStack() as disks:
            for disk in self._disks.values():
                disks.callback(disk.close)

    def close(self) -> None:
        """Close every disk, stop the backend and the host."""
        self._undo.close()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
