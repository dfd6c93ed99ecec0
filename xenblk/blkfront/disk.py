"""A virtual disk as a file-like object: `pread`, `pwrite`, `flush`, `size`; every call goes through the ring."""

import errno
import threading
from collections.abc import Callable
from typing import Any

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.blkfront import Blkfront
from xenblk.blkif import BlkifOp


class VirtualDisk:
    """Synchronous reads and writes on a connected Blkfront, from any thread, one at a time.

    Offsets and lengths are multiples of the disk's sector size, mostly 512 bytes: EINVAL otherwise. Reads end at the
    disk's end, as a file's do; writes beyond it are ENOSPC; writes to a read-only disk EROFS; a request that the
    backend refused is EIO; a disk whose backend is gone ENODEV.
    """

    def __init__(self, frontend: Blkfront, on_close: Callable[[], None] = lambda: None) -> None:
        self.frontend = frontend
        self._on_close = on_close
        self._closed = False
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self.frontend.size

    @property
    def read_only(self) -> bool:
        """Whether the backend refuses writes."""
        return self.frontend.read_only

    def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end of the disk."""
        check_aligned(self.frontend, count, offset)
        data = bytearray(max(0, min(count, self.size - offset)))
        if data:
            self._run(BlkifOp.READ, offset, memoryview(data))
        return bytes(data)

    def preadinto(self, buffer: Any, offset: int) -> int:
        """As `pread`, into a writable bytes-like object; returns how many bytes were read."""
        view = memoryview(buffer).cast("B")
        check_aligned(self.frontend, view.nbytes, offset)
        view = view[: max(0, min(view.nbytes, self.size - offset))]
        if view.nbytes:
            self._run(BlkifOp.READ, offset, view)
        return view.nbytes

    def pwrite(self, data: Any, offset: int, *, fua: bool = False) -> int:
        """Write a bytes-like object whole; returns its length. Durable only after `flush`, which `fua` includes."""
        view = memoryview(data).cast("B")
        check_writable(self.frontend, view.nbytes, offset)
        if view.nbytes:
            self._run(BlkifOp.WRITE, offset, view)
        if view.nbytes and fua:
            self.flush()
        return view.nbytes

    def discard(self, offset: int, count: int, secure: bool = False) -> None:
        """Say that `count` bytes from `offset` are not needed any more; what is read there later is undefined.

        `secure` asks for the data to be erased. OSError EOPNOTSUPP if the backend does not offer it.
        """
        check_writable(self.frontend, count, offset)
        if count:
            self._run(BlkifOp.DISCARD, offset, None, nr_bytes=count, secure=secure)

    def flush(self) -> None:
        """Make every write that returned before durable, as far as the backend's disk can."""
        if not self.read_only:
            self._run(BlkifOp.FLUSH_DISKCACHE, 0, None)

    def _run(
        self, op: BlkifOp, offset: int, buffer: memoryview | None, *, nr_bytes: int = 0, secure: bool = False
    ) -> None:
        with self._lock:
            bio = self.frontend.submit(op, offset, buffer, nr_bytes=nr_bytes, secure=secure)
            done: list[Bio] = []
            while bio not in done:
                done = self.frontend.poll()
        if bio.error is not None:
            raise bio.error

    def close(self) -> None:
        """Disconnect from the backend."""
        if not self._closed:
            self._closed = True
            self.frontend.close()
            self._on_close()

    def __enter__(self) -> "VirtualDisk":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def check_aligned(frontend: Blkfront, count: int, offset: int) -> None:
    """OSError EINVAL for what no request can say."""
    size = frontend.sector_size
    if offset < 0 or count < 0 or offset % size or count % size:
        raise OSError(errno.EINVAL, f"offset and length are multiples of {size} bytes, not {offset} and {count}")


def check_writable(frontend: Blkfront, count: int, offset: int) -> None:
    """OSError EINVAL, EROFS or ENOSPC unless so many bytes can be written there."""
    check_aligned(frontend, count, offset)
    if frontend.read_only:
        raise OSError(errno.EROFS, "the disk is read-only")
    if offset + count > frontend.size:
        raise OSError(errno.ENOSPC, f"{count} bytes at {offset} end beyond the disk of {frontend.size} bytes")
