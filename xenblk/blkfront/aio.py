"""A virtual disk for asyncio: as many operations in flight as there are awaits, one thread, no timer."""

import asyncio
import errno
from typing import Any

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.blkfront import Blkfront
from xenblk.blkfront.disk import check_aligned, check_writable
from xenblk.blkif import BlkifOp


class AsyncDisk:
    """Reads and writes on a connected Blkfront, from the tasks of one event loop.

        async with AsyncDisk(host.attach("memory:1M").frontend) as disk:
            await disk.pwrite(b"hello".ljust(512, b"\\0"), 0)
            blocks = await asyncio.gather(*(disk.pread(512, i * 512) for i in range(64)))
            await disk.flush()

    Offsets and lengths are multiples of 512 bytes, errors the OSErrors of VirtualDisk. Operations that tasks start in
    one turn of the loop go to the backend with one notification. An await that is cancelled leaves its operation in
    flight: it is carried out or not, and a buffer that was given to `pwrite` must be left alone until then.

    The frontend is the disk's alone, and closed with it. It looks for a response for up to its `poll_us` before it lets
    the loop go on: connect it with `poll_us=0` if the loop has other things to do.
    """

    def __init__(self, frontend: Blkfront) -> None:
        self.frontend = frontend
        self._waiting: dict[Bio, asyncio.Future[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader_fd = -1
        self._turn_comes = False
        self._closed = False

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self.frontend.size

    @property
    def read_only(self) -> bool:
        """Whether the backend refuses writes."""
        return self.frontend.read_only

    async def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end of the disk."""
        check_aligned(self.frontend, count, offset)
        data = bytearray(max(0, min(count, self.size - offset)))
        if data:
            await self._run(BlkifOp.READ, offset, memoryview(data))
        return bytes(data)

    async def pwrite(self, data: Any, offset: int, *, fua: bool = False) -> int:
        """Write a bytes-like object whole; returns its length. Durable only after `flush`, which `fua` includes."""
        view = memoryview(data).cast("B")
        check_writable(self.frontend, view.nbytes, offset)
        if view.nbytes:
            await self._run(BlkifOp.WRITE, offset, view)
        if view.nbytes and fua:
            await self.flush()
        return view.nbytes

    async def discard(self, offset: int, count: int, secure: bool = False) -> None:
        """As VirtualDisk's."""
        check_writable(self.frontend, count, offset)
        if count:
            await self._run(BlkifOp.DISCARD, offset, None, nr_bytes=count, secure=secure)

    async def flush(self) -> None:
        """Make every write that was awaited before durable, as far as the backend's disk can."""
        if not self.read_only:
            await self._run(BlkifOp.FLUSH_DISKCACHE, 0, None)

    async def _run(
        self, op: BlkifOp, offset: int, buffer: memoryview | None, *, nr_bytes: int = 0, secure: bool = False
    ) -> None:
        loop = self._listen()
        bio = self.frontend.submit(op, offset, buffer, nr_bytes=nr_bytes, secure=secure)
        # Kept until the bio is done, whatever becomes of the await: so is the buffer.
        future = self._waiting[bio] = loop.create_future()
        if not self._turn_comes:
            self._turn_comes = True
            loop.call_soon(self._turn)
        await future

    def _listen(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise OSError(errno.ENODEV, "the disk is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._reader_fd = self.frontend.fileno()
            self._loop.add_reader(self._reader_fd, self._event)
        return self._loop

    def _event(self) -> None:
        self.frontend.take_event()
        self._turn()

    def _turn(self) -> None:
        """Send what was submitted and settle what is done, until the backend is to notify of the next response."""
        self._turn_comes = False
        while done := self.frontend.poll(0):
            self._settle(done)

    def _settle(self, done: list[Bio]) -> None:
        for bio in done:
            future = self._waiting.pop(bio)
            if future.done():
                continue
            if bio.error is None:
                future.set_result(None)
            else:
                future.set_exception(bio.error)

    async def close(self) -> None:
        """Disconnect from the backend; what is in flight ends with ENODEV."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._reader_fd)
        await asyncio.get_running_loop().run_in_executor(None, self.frontend.close)
        self._turn()

    async def __aenter__(self) -> "AsyncDisk":
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.close()
