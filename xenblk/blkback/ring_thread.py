"""The thread that serves one ring: sleeps until the guest sends an event, and looks after the kept mappings."""

import logging
import threading
import time
from typing import Final

from xenblk.blkback.access import DataAccess
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.parameters import PURGE_INTERVAL_S
from xenblk.errors import RingPeerError
from xenblk.platform import EventChannel

_log: Final = logging.getLogger("xenblk.blkback")


class RingThread(threading.Thread):
    """Runs from `start` until `stop`. A guest that breaks its ring is not served any more, until it reconnects."""

    def __init__(self, name: str, engine: PythonEngine, access: DataAccess, channel: EventChannel) -> None:
        super().__init__(name=name, daemon=True)
        self._engine = engine
        self._access = access
        self._channel = channel
        self._stopping = False

    def run(self) -> None:
        """Serve until stopped."""
        try:
            self._serve()
        except RingPeerError as e:
            _log.warning("%s: %s; its ring is not served until it reconnects", self.name, e)
        except Exception:
            _log.exception("%s: a bug of the backend; the ring is not served until its frontend reconnects", self.name)

    def _serve(self) -> None:
        next_purge_s = time.monotonic() + PURGE_INTERVAL_S
        while not self._stopping:
            notify, more = self._engine.serve_batch()
            if notify:
                self._channel.notify()
            if not more:
                self._channel.wait(PURGE_INTERVAL_S)
            if time.monotonic() >= next_purge_s:
                self._access.purge()
                next_purge_s = time.monotonic() + PURGE_INTERVAL_S

    def stop(self) -> None:
        """Let the request in progress finish, then end; returns when the thread is gone."""
        self._stopping = True
        self._channel.wake()
        if self.is_alive():
            self.join()
