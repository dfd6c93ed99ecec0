"""What a native ring has done beside its thread, ten times a second: the purge of kept pages, and the log of counts."""

import threading
from collections.abc import Callable

from xenblk.blkback.parameters import PURGE_INTERVAL_S


class Housekeeper(threading.Thread):
    """Calls `step` every PURGE_INTERVAL_S until `stop`; start_thread starts it."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._step = step
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.wait(PURGE_INTERVAL_S):
            self._step()

    def stop(self) -> None:
        """End it; returns when the thread is gone."""
        self._stopping.set()
        if self.is_alive():
            self.join()
