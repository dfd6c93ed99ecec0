"""Sleeping until any of several event channels has an event: one descriptor for all, and for those yet to come."""

import contextlib
import os
import select
import weakref
from collections.abc import Sequence

from xenblk.platform import EventChannel


class Waiter:
    """What a disk sleeps on that has several rings, or changes them while it is used. `fileno` stays the same.

    Its descriptors are closed when nobody has it any more: somebody may sleep on it while the disk is closed.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._wake_fd)
        self._epoll.register(self._wake_fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `wait` would not block."""
        return self._epoll.fileno()

    def add(self, channels: Sequence[EventChannel]) -> None:
        """Wake up for these, too."""
        for channel in channels:
            self._epoll.register(channel.fileno(), select.EPOLLIN)

    def remove(self, channels: Sequence[EventChannel]) -> None:
        """Before they are closed."""
        for channel in channels:
            self._epoll.unregister(channel.fileno())

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until one of them has an event, or until `wake`; the events are not taken."""
        for fd, _events in self._epoll.poll(timeout_s):
            if fd == self._wake_fd:
                self._take_wake()

    def _take_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # somebody else took it
            os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """Let `wait` return, from any thread."""
        os.eventfd_write(self._wake_fd, 1)
