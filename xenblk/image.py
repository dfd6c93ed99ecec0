"""Files and block devices that may be a disk: opening them, and what they can do."""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from xenblk._native import lib
from xenblk.abi import SECTOR_SIZE
from xenblk.errors import DiskError

_NO_DIRECT: Final = "the file system of {} has no direct I/O (O_DIRECT)"


def open_image(path: str, read_only: bool, direct: bool) -> int:
    """A descriptor of the file or block device; DiskError with a sentence if it cannot be a disk."""
    purpose = "reading" if read_only else "reading and writing"
    try:
        # O_NONBLOCK: a FIFO is refused below, not waited for.
        fd = os.open(path, os.O_NONBLOCK | (os.O_RDONLY if read_only else os.O_RDWR) | (os.O_DIRECT if direct else 0))
    except FileNotFoundError:
        raise DiskError(f"there is no disk image {path}") from None
    except IsADirectoryError:
        raise DiskError(f"{path} is a directory, not a disk image") from None
    except (OSError, ValueError) as e:
        if direct and isinstance(e, OSError) and e.errno == errno.EINVAL:
            raise DiskError(_NO_DIRECT.format(path)) from None
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise DiskError(f"{path!r} cannot be opened for {purpose}: {reason}") from e
    try:
        _require_disk_file(path, fd)
        if direct:
            _require_direct(path, fd)
    except DiskError:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    _leave_access_time(fd)
    return fd


def _leave_access_time(fd: int) -> None:
    """Reads look at no time, which is a twentieth of what a page costs; only a file's owner may have that so."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NOATIME)


def _require_disk_file(path: str, fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    kind = "a directory, not a disk image" if stat.S_ISDIR(mode) else "neither a file nor a block device"
    raise DiskError(f"{path} is {kind}")


def _require_direct(path: str, fd: int) -> None:
    alignment = lib.xb_file_direct_alignment(fd)
    if alignment <= 0:
        raise DiskError(_NO_DIRECT.format(path))
    if alignment > SECTOR_SIZE:
        raise DiskError(
            f"direct I/O on {path} takes blocks of {alignment} bytes; a disk is read and written in {SECTOR_SIZE}"
        )


def hole_bytes(fd: int, size: int) -> int:
    """What holes are made of; 0 if there are none. Behind the end of a file a hole changes nothing."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        queue = Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/queue/discard_granularity")
        return int(queue.read_text()) if queue.exists() else 0
    return status.st_blksize if lib.xb_discard_file(fd, size, 1) == 0 else 0
