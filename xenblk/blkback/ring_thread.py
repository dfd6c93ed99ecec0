"""The thread that serves one ring, with either engine."""

import errno
import logging
import threading
from typing import Final, Protocol

from xenblk.errors import RingPeerError

_log: Final = logging.getLogger("xenblk.blkback")

_PATIENCE_S: Final = 0.1
"""How long a thread that was told to stop may take before it is told again."""


class Server(Protocol):
    """An engine with its way of sleeping."""

    def start(self) -> None:
        """Begin what goes on beside `run`, until `close`; OSError EAGAIN if the system gives no thread for it."""

    def run(self) -> None:
        """Serve until `stop`; RingPeerError if the guest breaks its ring."""

    def stop(self) -> None:
        """Let `run` return soon, from any thread, once or more often; the request in progress is finished."""

    def charge(self, user_id: int, /) -> bool:
        """Charge a record by hand; False if all are charged or in use."""

    def resize(self, size: int, /) -> None:
        """The disk has another size now, in bytes; from any thread."""

    def close(self) -> None:
        """Give everything back, after `run` has returned."""


def start_thread(thread: threading.Thread) -> None:
    """Start it; OSError EAGAIN if the system gives no thread: what a connection lacks ends that connection only."""
    try:
        thread.start()
    except RuntimeError as e:
        raise OSError(errno.EAGAIN, f"no thread for {thread.name}: {e}") from None


class RingThread(threading.Thread):
    """Runs until `stop`; start_thread starts it. A guest that breaks its ring is not served until it reconnects."""

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name=name, daemon=True)
        self._server = server

    def run(self) -> None:
        """Serve until stopped."""
        try:
            self._server.run()
        except RingPeerError as e:
            _log.warning("%s: %s; its ring is not served until it reconnects", self.name, e)
        except Exception:
            _log.exception("%s: a bug of the backend; the ring is not served until its frontend reconnects", self.name)

    def stop(self) -> None:
        """Let the request in progress finish, then end; returns when the thread is gone."""
        self._server.stop()
        while self.is_alive():
            self.join(_PATIENCE_S)
            # The other end can take a wake-up that is meant for us, and must not keep us here.
            self._server.stop()
