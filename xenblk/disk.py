"""What a backend serves: memory, a file or block device, or any Python object that looks like a disk.

The vectored calls of the interface `Disk` read and write a guest's pages in place; object_disk.py puts any Python
object behind it. Errors of I/O are OSError, with EOPNOTSUPP for what a disk cannot do; a disk that cannot be used at
all is a DiskError.
"""

import abc
import errno
import functools
import mmap
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from xenblk import huge_pages
from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.errors import DiskError
from xenblk.image import hole_bytes, open_image

MEMORY_PREFIX: Final = "memory:"

SECTOR_SIZES: Final = (512, 4096)
"""What a disk may be read and written in."""

_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Disk(Protocol):
    """A disk as the engines use it. Offsets are bytes; several threads may call at the same time."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of `sector_size`, as they were found last."""

    def find_size(self) -> int:
        """Look how large the disk is now; `size` is that from now on."""

    @property
    def sector_size(self) -> int:
        """The unit that a guest reads and writes in: 512 or 4096 bytes (the node `sector-size`)."""

    @property
    def read_only(self) -> bool:
        """Whether pwritev is refused."""

    @property
    def discard_granularity(self) -> int:
        """What a discard frees is a multiple of so many bytes; 0 if the disk has no discard."""

    @property
    def can_discard_securely(self) -> bool:
        """Whether a discard can erase: nobody finds the data afterwards, wherever it stood."""

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill all buffers, in order, from `offset` on; OSError if that is not possible."""

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write all buffers, in order, from `offset` on; OSError if that is not possible."""

    def flush(self) -> None:
        """Make durable what was written before; OSError if that is not possible."""

    def discard(self, offset: int, count: int, secure: bool = False) -> None:
        """Forget these bytes, or erase them; OSError if that is not possible. Our own disks read as zeros there."""

    def close(self) -> None:
        """Let go of the disk."""


def parse_size(text: str) -> int:
    """Bytes, as fio spells them: a number, or one with K, M, G or T for powers of 1024. DiskError for anything else."""
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)", text.strip().upper(), re.ASCII)
    if match is None:
        raise DiskError(f"a size is a number of bytes, or one with K, M, G or T such as 64M, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def open_disk(
    spec: str, read_only: bool = False, direct: bool = False, sector_size: int = SECTOR_SIZE
) -> "MemoryDisk | FileDisk":
    """The disk that `spec` names, `memory:SIZE` or a path; DiskError with a sentence if it cannot be used.

    `direct` goes around the page cache, which memory never went through.
    """
    if spec.startswith(MEMORY_PREFIX):
        return MemoryDisk(parse_size(spec.removeprefix(MEMORY_PREFIX)), read_only=read_only, sector_size=sector_size)
    return FileDisk(spec, read_only=read_only, direct=direct, sector_size=sector_size)


def require_sectors(name: str, size: int, sector_size: int) -> None:
    if sector_size not in SECTOR_SIZES:
        raise DiskError(f"a disk has sectors of {' or '.join(map(str, SECTOR_SIZES))} bytes; {name}: {sector_size!r}")
    if size < sector_size:
        raise DiskError(f"{name} has {size} bytes; a disk has at least {sector_size}")
    if size % sector_size:
        raise DiskError(
            f"a disk has a multiple of {sector_size} bytes; {name} has {size}, which leaves {size % sector_size}"
        )


class _SizedDisk(abc.ABC):
    """A disk that knows its size: keeps requests within it, and offers the calls of a disk written in Python."""

    can_discard_securely: bool = False

    def __init__(self, name: str, size: int, read_only: bool, sector_size: int) -> None:
        require_sectors(name, size, sector_size)
        self.name: Final = name
        self.size = size
        self.read_only: Final = read_only
        self.sector_size: Final = sector_size

    def find_size(self) -> int:
        """See Disk. The size is what it was."""
        return self.size

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See Disk."""
        count = total_bytes(buffers)
        self._require_within(count, offset)
        if count:
            self._preadv(buffers, offset)

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See Disk."""
        self._require_writable()
        count = total_bytes(buffers)
        self._require_within(count, offset)
        if count:
            self._pwritev(buffers, offset)

    def discard(self, offset: int, count: int, secure: bool = False) -> None:
        """See Disk."""
        self._require_writable()
        self._require_within(count, offset)
        if secure and not self.can_discard_securely:
            raise OSError(errno.EOPNOTSUPP, f"{self.name} cannot erase what is discarded")
        if count:
            self._discard(offset, count, secure)

    def pread(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset`."""
        data = bytearray(count)
        self.preadv([memoryview(data)], offset)
        return bytes(data)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        self.pwritev([memoryview(data).cast("B")], offset)

    def _require_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, f"{self.name} is read-only")

    def _require_within(self, count: int, offset: int) -> None:
        if not 0 <= offset <= self.size - count:
            raise OSError(errno.EINVAL, f"{self.name} has {self.size} bytes, not {count} from {offset}")

    @abc.abstractmethod
    def _preadv(self, buffers: Sequence[memoryview], offset: int) -> None: ...

    @abc.abstractmethod
    def _pwritev(self, buffers: Sequence[memoryview], offset: int) -> None: ...

    @abc.abstractmethod
    def _discard(self, offset: int, count: int, secure: bool) -> None: ...


def total_bytes(buffers: Sequence[memoryview]) -> int:
    """What all of them hold."""
    return sum(buffer.nbytes for buffer in buffers)


class MemoryDisk(_SizedDisk):
    """`size` bytes of zeroed memory, taken from the system as they are written, on huge pages where it allows that.

    `memory` is all of it.
    """

    discard_granularity: Final = PAGE_SIZE
    can_discard_securely = True

    def __init__(self, size: int, *, read_only: bool = False, sector_size: int = SECTOR_SIZE) -> None:
        super().__init__("the memory disk", size, read_only, sector_size)
        self.memory: Final = huge_pages.allocate(size)

    @property
    def huge(self) -> int:
        """Bytes of `memory` that stand on huge pages now; 0 before anything was written."""
        return huge_pages.huge_bytes(self.memory)

    def _preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            end = offset + buffer.nbytes
            buffer[:] = self.memory[offset:end]
            offset = end

    def _pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            end = offset + buffer.nbytes
            self.memory[offset:end] = buffer
            offset = end

    def _discard(self, offset: int, count: int, secure: bool) -> None:
        with ffi.from_buffer(self.memory) as memory:
            lib.xb_discard_memory(memory + offset, count, secure)

    def flush(self) -> None:
        """Memory is as durable as it gets."""

    def close(self) -> None:
        """The memory goes when nobody uses the disk any more."""


class FileDisk(_SizedDisk):
    """A file or block device. DiskError if it is not there, may not be used, or has no whole number of sectors.

    `direct` opens it with O_DIRECT (open(2)): what is read and written goes around the page cache, in whole sectors.
    DiskError if the file system has no such thing, or wants larger blocks than a sector: writing part of a block would
    be a read and a write, and could undo a write beside it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        read_only: bool = False,
        direct: bool = False,
        sector_size: int = SECTOR_SIZE,
    ) -> None:
        self.direct: Final = direct
        self._fd = open_image(os.fspath(path), read_only, direct)
        try:
            # Seeking tells the size of a file and of a block device alike.
            super().__init__(os.fspath(path), os.lseek(self._fd, 0, os.SEEK_END), read_only, sector_size)
        except DiskError:
            os.close(self._fd)
            raise
        self.discard_granularity: Final = hole_bytes(self._fd, self.size)

    def find_size(self) -> int:
        """See Disk. A file that somebody truncated or extended; a last sector that is not whole does not count."""
        self.size = os.lseek(self._fd, 0, os.SEEK_END) // self.sector_size * self.sector_size
        return self.size

    def fileno(self) -> int:
        """The open file's descriptor, the disk's own."""
        return self._fd

    @functools.cached_property
    def mapped(self) -> Any:
        """The file as memory (mapped_file.h), the disk's own; NULL for one that is not on tmpfs."""
        return ffi.gc(lib.xb_mapped_file_create(self._fd, self.size), lib.xb_mapped_file_destroy)

    def _preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        if not self.direct:
            self._transfer(os.preadv, buffers, offset)
            return
        aligned = self._aligned(total_bytes(buffers), offset)
        self._transfer(os.preadv, [aligned], offset)
        for buffer in buffers:
            buffer[:] = aligned[: buffer.nbytes]
            aligned = aligned[buffer.nbytes :]

    def _pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        if not self.direct:
            self._transfer(os.pwritev, buffers, offset)
            return
        aligned = self._aligned(total_bytes(buffers), offset)
        aligned[:] = b"".join(buffers)
        self._transfer(os.pwritev, [aligned], offset)

    def _aligned(self, count: int, offset: int) -> memoryview:
        """Memory of its own pages, as O_DIRECT needs it: nothing is known of where a caller's buffers stand."""
        if count % SECTOR_SIZE or offset % SECTOR_SIZE:
            raise OSError(
                errno.EINVAL,
                f"{self.name} is open for direct I/O in whole sectors of {SECTOR_SIZE} bytes, "
                f"not {count} bytes from {offset}",
            )
        return memoryview(mmap.mmap(-1, count))

    def _transfer(
        self, call: Callable[[int, Sequence[memoryview], int], int], buffers: Sequence[memoryview], offset: int
    ) -> None:
        """One call does it, but for signals, full disks and more than IOV_MAX buffers."""
        while buffers:
            done = call(self._fd, buffers[:_IOV_MAX], offset)
            if done == 0:
                raise OSError(errno.EIO, f"{self.name} ended at {offset}; it had {self.size} bytes when opened")
            offset += done
            buffers = _skip(buffers, done)

    def _discard(self, offset: int, count: int, secure: bool) -> None:
        status = lib.xb_discard_file(self._fd, offset, count)
        if status:
            raise OSError(-status, f"{self.name} has no hole made at {offset}: {os.strerror(-status)}")

    def flush(self) -> None:
        """See Disk."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; again does nothing."""
        if self._fd >= 0:
            self.__dict__.pop("mapped", None)  # and unmapped, as nobody else has it
            os.close(self._fd)
            self._fd = -1


def _skip(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of `buffers` behind their first `count` bytes."""
    rest = list(buffers)
    while rest and count >= rest[0].nbytes:
        count -= rest.pop(0).nbytes
    if count:
        rest[0] = rest[0][count:]
    return rest
