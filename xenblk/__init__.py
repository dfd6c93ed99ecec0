"""xenblk: Xen's paravirtual block protocol between ordinary processes, every map, unmap and copy counted.

    import xenblk

    with xenblk.Host() as host, host.attach(xenblk.MemoryDisk(1 << 20)) as disk:
        disk.pwrite(b"hello".ljust(512), 0)
        disk.flush()
        print(disk.pread(512, 0))

Names are loaded when first used: a build of the extension, and the command line, import this package before (or
without) most of what is in it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenblk.blkback import Backend, BackendParameters
    from xenblk.blkfront import Bio, Blkfront, VirtualDisk
    from xenblk.disk import FileDisk, MemoryDisk
    from xenblk.errors import PeerError, UsageError, XenblkError
    from xenblk.library import Host

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BackendParameters",
    "Bio",
    "Blkfront",
    "FileDisk",
    "Host",
    "MemoryDisk",
    "PeerError",
    "UsageError",
    "VirtualDisk",
    "XenblkError",
]

_HOMES = {
    "Backend": "blkback",
    "BackendParameters": "blkback",
    "Bio": "blkfront",
    "Blkfront": "blkfront",
    "FileDisk": "disk",
    "Host": "library",
    "MemoryDisk": "disk",
    "PeerError": "errors",
    "UsageError": "errors",
    "VirtualDisk": "blkfront",
    "XenblkError": "errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'xenblk' has no attribute {name!r}")
    return getattr(importlib.import_module(f"xenblk.{_HOMES[name]}"), name)
