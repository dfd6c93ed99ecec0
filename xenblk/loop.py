"""A loop over file descriptors, as the host and xenstored run it: one thread, callbacks, and something that ticks.

epoll is used as it is: what a server does per request should be the request, not the loop.
"""

import collections
import os
import select
from collections.abc import Callable
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

EVENTS_MAX: Final = 64
"""How many are taken at a time; the rest come next."""

SOCKET_PATH_BYTES_MAX: Final = 107
"""sun_path holds 108 bytes with its NUL (unix(7))."""


class Loop:
    """Calls each descriptor's function with the event mask, until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._tickers: list[Callable[[], float | None]] = []
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self.add(self._wake_fd, READ, self._woken)

    def add(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        """Call `callback` when `fd` is ready for `mask`, or has hung up. OSError as epoll_ctl(2) has it."""
        self._epoll.register(fd, mask)
        self._callbacks[fd] = callback

    def change(self, fd: int, mask: int) -> None:
        """Wait for something else."""
        self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget a descriptor, before it is closed."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def add_ticker(self, ticker: Callable[[], float | None]) -> None:
        """Call `ticker` before each wait; it says how many seconds to wait at most, None for as long as it takes."""
        self._tickers.append(ticker)

    def run(self) -> None:
        """Serve until `stop`."""
        poll, find = self._epoll.poll, self._callbacks.get
        while not self._stopping:
            for fd, mask in poll(self._tick(), EVENTS_MAX):
                # What came before in the same round may have removed it.
                if (callback := find(fd)) is not None:
                    callback(mask)

    def _tick(self) -> float | None:
        shortest_s = None
        for ticker in self._tickers:
            wait_s = ticker()
            if wait_s is not None and (shortest_s is None or wait_s < shortest_s):
                shortest_s = wait_s
        return shortest_s

    def call(self, function: Callable[[], None]) -> None:
        """Let the loop call `function` once, soon; from any thread or signal handler."""
        self._calls.append(function)
        os.eventfd_write(self._wake_fd, 1)

    def _woken(self, _mask: int) -> None:
        os.eventfd_read(self._wake_fd)
        while self._calls:
            self._calls.popleft()()

    def stop(self) -> None:
        """Let `run` return; from any thread or signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Give the loop's own descriptors back."""
        self._epoll.close()
        os.close(self._wake_fd)
