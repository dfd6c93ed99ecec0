"""Linux's devices for processes that deal with Xen, and what to say of one that cannot be had."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Final

from xenblk.errors import HostError

MODULES: Final = {
    "gntdev": "xen-gntdev",
    "gntalloc": "xen-gntalloc",
    "evtchn": "xen-evtchn",
    "privcmd": "xen-privcmd",
    "xenbus": "",
}
"""Which module makes which device; xenbus is part of the kernel."""


@dataclasses.dataclass(frozen=True, slots=True)
class Devices:
    """Where they are: below `root`, which is another one only in tests."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Where a device is, whether it is there or not."""
        return self.root / "dev/xen" / name

    def open(self, name: str, flags: int = 0) -> int:
        """Open a device for reading and writing. HostError says what to do if that cannot be."""
        try:
            return os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC | flags)
        except OSError as e:
            raise HostError(errno.errorcode.get(e.errno or 0, "EIO"), self._why_not(name, e)) from None

    def _why_not(self, name: str, error: OSError) -> str:
        path = self.path(name)
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{path} may not be opened by user {os.getuid()}: root may, and whom a udev rule lets"
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return f"{path} cannot be opened: {error.strerror}"
        if not self.is_domain:
            return f"there is no {path}: this machine runs under no Xen, or its Linux was built without Xen's devices"
        if not MODULES[name]:
            return f"there is no {path}: this Linux was built without it"
        return f"there is no {path}: load its module, by `modprobe {MODULES[name]}`"

    @property
    def is_domain(self) -> bool:
        """Whether this Linux is a domain of a Xen that it can speak to."""
        if self.path("xenbus").exists() or (self.root / "proc/xen/capabilities").exists():
            return True
        try:
            return (self.root / "sys/hypervisor/type").read_text().strip() == "xen"
        except OSError:
            return False

    @property
    def is_control_domain(self) -> bool:
        """Whether this is domain 0, or one that may do what domain 0 may."""
        try:
            return "control_d" in (self.root / "proc/xen/capabilities").read_text()
        except OSError:
            return False

    def parameter(self, module: str, name: str, default: int) -> int:
        """A parameter of a module, as it is now; `default` where that cannot be read."""
        path = self.root / "sys/module" / module.replace("-", "_") / "parameters" / name
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            return default
