"""A disk written in Python: any object with a few methods, behind the interface of the engines.

It has `pread(count, offset)`, which returns `count` bytes, `pwrite(data, offset)`, `flush()` and `size`, in bytes; and
may have `read_only`, `sector_size`, `discard(offset, count)` with a `discard_granularity`, and
`discard_secure(offset, count)`, after which nobody finds the data.
"""

import errno
import logging
from collections.abc import Sequence
from typing import Any, Final

from xenblk.abi import SECTOR_SIZE
from xenblk.disk import require_sectors, total_bytes
from xenblk.errors import DiskError

_log: Final = logging.getLogger("xenblk.disk")


class ObjectDisk:
    """A disk written in Python, behind the interface of the engines; what it returns is checked.

    Whatever goes wrong in the object is an OSError here, and an error of one request to the guest. The object stays its
    owner's: `close` does not close it. DiskError if it is not a disk.
    """

    def __init__(self, disk: Any, read_only: bool = False) -> None:
        self._disk = disk
        self._name = type(disk).__name__
        self.read_only: Final = bool(read_only or getattr(disk, "read_only", False))
        needed = ["pread", "flush"] if self.read_only else ["pread", "pwrite", "flush"]
        missing = [name for name in needed if not callable(getattr(disk, name, None))]
        if missing:
            raise DiskError(f"a disk has methods pread, pwrite and flush; {self._name} has no {', '.join(missing)}")
        size = getattr(disk, "size", None)
        if not isinstance(size, int):
            raise DiskError(f"a disk has a size in bytes; {self._name}.size is {size!r}")
        self.sector_size: Final[int] = getattr(disk, "sector_size", SECTOR_SIZE)
        require_sectors(self._name, size, self.sector_size)
        self.size = size
        can_discard = callable(getattr(disk, "discard", None))
        self.discard_granularity: Final[int] = (
            getattr(disk, "discard_granularity", self.sector_size) if can_discard else 0
        )
        self.can_discard_securely: Final = can_discard and callable(getattr(disk, "discard_secure", None))

    def find_size(self) -> int:
        """See Disk. OSError if the object's size is no size."""
        size = getattr(self._disk, "size", None)
        if not isinstance(size, int) or size < 0:
            raise OSError(errno.EIO, f"{self._name}.size is {size!r}, not a number of bytes")
        self.size = size // self.sector_size * self.sector_size
        return self.size

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See Disk. One call of `pread`, whatever the number of buffers."""
        count = total_bytes(buffers)
        data = self._call("pread", count, offset)
        try:
            view = memoryview(data).cast("B")
        except TypeError:
            raise OSError(errno.EIO, f"{self._name}.pread returned {type(data).__name__}, not bytes") from None
        if view.nbytes != count:
            raise OSError(
                errno.EIO, f"{self._name}.pread returned {view.nbytes} bytes from {offset}, and {count} were wanted"
            )
        for buffer in buffers:
            buffer[:] = view[: buffer.nbytes]
            view = view[buffer.nbytes :]

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See Disk. One call of `pwrite`, with a copy: a guest could change its pages while the object looks."""
        if self.read_only:
            raise OSError(errno.EROFS, f"{self._name} is read-only")
        data = b"".join(buffers)
        written = self._call("pwrite", data, offset)
        if written is not None and written != len(data):
            raise OSError(errno.EIO, f"{self._name}.pwrite wrote {written!r} of {len(data)} bytes at {offset}")

    def flush(self) -> None:
        """See Disk."""
        self._call("flush")

    def discard(self, offset: int, count: int, secure: bool = False) -> None:
        """See Disk."""
        if not self.discard_granularity or (secure and not self.can_discard_securely):
            raise OSError(errno.EOPNOTSUPP, f"{self._name} has no method discard{'_secure' * secure}")
        if self.read_only:
            raise OSError(errno.EROFS, f"{self._name} is read-only")
        self._call("discard_secure" if secure else "discard", offset, count)

    def close(self) -> None:
        """The object is not ours to close."""

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._disk, method)(*arguments)
        except OSError:
            raise
        except Exception as e:
            _log.exception("%s.%s failed", self._name, method)
            raise OSError(errno.EIO, f"{self._name}.{method} failed: {e!r}") from e
