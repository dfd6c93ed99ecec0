"""A double of a known frontend that lives by itself: a thread has it, does what it is asked to and polls in between."""

import errno
import math
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from xenblk.errors import XenblkError
from xenblk.harness.doubles.frontend_operations import Operation
from xenblk.harness.doubles.frontends import FrontendDouble
from xenblk.harness.wire.deadline import patience

_POLL_S: Final = 0.0005

Start = Callable[[], Operation | None]
"""Begins something; None if that is all of it."""


class FrontendThread:
    """A double with the calls of the system above it. Each starts something and returns at once, with a Future.

    That ends with the result, or with the OSError that a user of the disk would get; it has no deadline.
    """

    def __init__(self, double: FrontendDouble) -> None:
        self._double = double
        self._commands: queue.SimpleQueue[tuple[Start, Future[Any]]] = queue.SimpleQueue()
        self._waiting: dict[Operation, Future[Any]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="frontend double", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes of the disk, once connected."""
        return self._double.size

    @property
    def read_only(self) -> bool:
        """Whether the disk cannot be written."""
        return self._double.read_only

    @property
    def offers_discard(self) -> bool:
        """Whether `discard` does anything."""
        return self._double.quirks.discards

    def connect(self) -> Future[None]:
        """Shake hands with the backend."""
        return self._do(self._double.connect)

    def read(self, offset: int, nr_bytes: int) -> Future[bytes]:
        """Read from the disk."""
        return self._do(lambda: self._double.start_read(offset, self._let_through(offset, nr_bytes)))

    def write(self, offset: int, data: bytes) -> Future[None]:
        """Write to the disk; what was written."""
        return self._do(
            lambda: self._double.start_write(offset, data[: self._let_through(offset, len(data), writes=True)])
        )

    def flush(self) -> Future[None]:
        """Make durable what was written."""
        return self._do(self._double.start_flush)

    def discard(self, offset: int, nr_bytes: int) -> Future[None]:
        """Say that a range is not needed any more."""
        return self._do(lambda: self._double.start_discard(offset, self._let_through(offset, nr_bytes, writes=True)))

    def close(self) -> Future[None]:
        """Leave in good order, as soon as the backend lets it."""
        return self._do(self._double.close)

    def stop(self) -> None:
        """Make an end, in whatever state it is."""
        self._stopped.set()
        self._thread.join()

    def _let_through(self, offset: int, nr_bytes: int, writes: bool = False) -> int:
        """How many of the bytes the block layer above a driver lets through; OSError for none."""
        if writes and self._double.read_only:
            raise OSError(errno.EROFS, "the disk is read-only")
        if offset + nr_bytes > self._double.size:
            if not self._double.quirks.cuts_at_end or offset >= self._double.size:
                raise OSError(errno.ENOSPC, f"{nr_bytes} bytes at {offset} end beyond the disk of {self._double.size}")
            return self._double.size - offset
        return nr_bytes

    # The thread

    def _do(self, start: Start) -> Future[Any]:
        done: Future[Any] = Future()
        self._commands.put((start, done))
        return done

    def _run(self) -> None:
        # A driver has no deadlines: what it waits for comes, or its domain ends.
        with patience(math.inf, self._stopped.is_set):
            while not self._stopped.is_set():
                self._take_command()
                self._poll()
            self._begin(self._double.close, Future())

    def _take_command(self) -> None:
        try:
            self._begin(*self._commands.get(timeout=_POLL_S))
        except queue.Empty:
            return

    def _begin(self, start: Start, done: Future[Any]) -> None:
        try:
            operation = start()
        except XenblkError as e:
            done.set_exception(OSError(errno.EIO, str(e)))
        except Exception as e:
            done.set_exception(e)
        else:
            if operation is None:
                done.set_result(None)
            else:
                self._waiting[operation] = done

    def _poll(self) -> None:
        try:
            self._double.poll()
        except XenblkError:
            return  # its nodes are gone
        for operation in [operation for operation in self._waiting if operation.done]:
            done = self._waiting.pop(operation)
            if operation.error is not None:
                done.set_exception(operation.error)
            else:
                done.set_result(bytes(operation.data))
