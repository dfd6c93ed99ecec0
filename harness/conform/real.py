"""This machine's own Xen, as a conformance run in its domain 0 has it."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.errors import HostError
from xenblk.harness.conform.case import NotOfferedError
from xenblk.harness.conform.xen import Xen
from xenblk.toolstack import BACKEND_TYPE, backend_path, frontend_path
from xenblk.vdev import parse_vdev
from xenblk.xen.devices import Devices
from xenblk.xen.platform import XenPlatform
from xenblk.xen.store import open_store

_HANDLES: Final = range(parse_vdev("xvda"), parse_vdev("xvda") + 256)
_NO_DEVICE: Final = "ff:0"
"""Major and minor number, in hexadecimal, of a device that no Linux has."""


class RealXen(Xen):
    """All guests are domain 0, where we run, each device with a number of its own.

    `nodes` are added to each backend's; with `loop` a disk is given as a loop device on its file, as xen-blkback has
    its disks.
    """

    has_own_guests = False

    def __init__(
        self, backend_type: str = BACKEND_TYPE, nodes: Mapping[str, str] | None = None, *, loop: bool = False
    ) -> None:
        super().__init__(open_store(Devices()), DOM0, backend_type)
        self._nodes = dict(nodes or {})
        self._loop = loop
        self._loops: dict[str, str] = {}
        self._handles = itertools.cycle(_HANDLES)
        self._undo.callback(self._end_loops)

    @contextlib.contextmanager
    def guest(self) -> Iterator[XenPlatform]:
        """This domain, with grants and channels that end with the block."""
        platform = XenPlatform(DOM0)
        try:
            yield platform
        finally:
            platform.close()

    def handle(self, wanted: int) -> int:
        """The next one in turn that nobody has: what is left of an earlier case's device is not met again soon."""
        return next(number for number in self._handles if not self._is_taken(number))

    def _is_taken(self, number: int) -> bool:
        paths = frontend_path(DOM0, number), backend_path(DOM0, DOM0, number, self.backend_type)
        return any(self.store.exists(path) for path in paths)

    def disk_nodes(self, disk: str) -> dict[str, str | None]:
        """See Xen. OSError, HostError if a loop device cannot be had."""
        if not self._loop:
            return {"type": "file", "params": disk, **self._nodes}
        number = self._loop_number(disk) if os.path.exists(disk) else _NO_DEVICE
        return {"type": "phy", "params": disk, "physical-device": number, "hotplug-status": "connected", **self._nodes}

    def _loop_number(self, disk: str) -> str:
        if disk not in self._loops:
            self._loops[disk] = _losetup("--find", "--show", disk)
        number = os.stat(self._loops[disk]).st_rdev
        return f"{os.major(number):x}:{os.minor(number):x}"

    def resized(self, disk: Path) -> None:
        """A loop device has to be told."""
        if str(disk) in self._loops:
            _losetup("--set-capacity", self._loops[str(disk)])

    def _end_loops(self) -> None:
        for device in self._loops.values():
            _losetup("--detach", device)

    def pins(self, domid: Domid) -> int:
        """NotOfferedError: domain 0 does not die while it runs this, and who has its pages pinned is not to be seen."""
        raise NotOfferedError("cannot be seen on this platform: who has a domain's pages pinned")


def _losetup(*words: str) -> str:
    done = subprocess.run(["losetup", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError("EIO", f"losetup {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
