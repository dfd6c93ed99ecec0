"""A domain's end of its xenstore ring as a socket, so that a client that speaks to sockets can use the ring.

A thread carries bytes both ways until either side ends. Closing the socket ends it; page and doorbell are closed then.
A server that stops serving the domain ends it as well: the client finds its connection lost.
"""

import contextlib
import select
import socket
import threading
from typing import Final

from xenblk.errors import PeerError
from xenblk.xenstore.page import XenstorePage
from xenblk.xenstore.rings import Doorbell

_PIECE_BYTES: Final = 1024


class RingBridge:
    """Owns page and doorbell; `socket` is the caller's."""

    def __init__(self, page: XenstorePage, doorbell: Doorbell) -> None:
        self.socket, self._inner = socket.socketpair()
        self._page = page
        self._doorbell = doorbell
        self._to_server = b""
        self._thread = threading.Thread(target=self._run, name="xenstore-ring", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, PeerError):
            while self._carry():
                pass
        self._inner.close()
        self._doorbell.close()
        self._page.close()

    def _carry(self) -> bool:
        poll = select.poll()
        poll.register(self._doorbell.fileno(), select.POLLIN)
        poll.register(self._inner, 0 if self._to_server else select.POLLIN)
        for fd, mask in poll.poll():
            if fd == self._doorbell.fileno():
                self._doorbell.wait(0)
            elif mask & (select.POLLHUP | select.POLLERR) and not mask & select.POLLIN:
                return False
            else:
                self._to_server = self._inner.recv(_PIECE_BYTES)
                if not self._to_server:
                    return False
        self._exchange()
        return not self._page.error

    def _exchange(self) -> None:
        moved = self._page.put(self._to_server)
        self._to_server = self._to_server[moved:]
        while data := self._page.take(_PIECE_BYTES):
            self._inner.sendall(data)
            moved += len(data)
        if moved:
            self._doorbell.notify()

    def join(self) -> None:
        """Wait for the end, after the socket was closed."""
        self._thread.join()
