"""The Python engine of one ring at work: it sleeps until the guest sends an event, and purges the kept pages."""

import time

from xenblk.blkback.access import DataAccess
from xenblk.blkback.charging import ChargedRecords
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.parameters import PURGE_INTERVAL_S
from xenblk.blkback.stats_log import StatsLog
from xenblk.platform import EventChannel


class PythonServer:
    """Serves one ring of one disk. `run` in the ring's thread, `stop` from any; `close` when `run` has returned."""

    def __init__(
        self,
        engine: PythonEngine,
        access: DataAccess,
        channel: EventChannel,
        records: ChargedRecords,
        stats: StatsLog | None = None,
    ) -> None:
        self._engine = engine
        self._access = access
        self._channel = channel
        self._records = records
        self._stats = stats
        self._stopping = False

    def start(self) -> None:
        """Nothing: `run` purges and logs."""

    def run(self) -> None:
        """Serve until `stop`. RingPeerError if the guest published an impossible index: the ring is finished then."""
        next_purge_s = time.monotonic() + PURGE_INTERVAL_S
        while not self._stopping:
            notify, more = self._engine.serve_batch()
            if notify:
                self._channel.notify()
            # Without a record for it, what is on the ring is no reason to stay awake.
            if not (more and self._records.available):
                self._channel.wait(PURGE_INTERVAL_S)
            if time.monotonic() >= next_purge_s:
                self._keep_house()
                next_purge_s = time.monotonic() + PURGE_INTERVAL_S

    def _keep_house(self) -> None:
        self._access.purge()
        if self._stats is not None:
            self._stats.tick(time.monotonic())

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopping = True
        self._channel.wake()

    def charge(self, user_id: int, /) -> bool:
        """Charge a record by hand; False if all are charged."""
        charged = self._records.charge(user_id)
        self._channel.wake()
        return charged

    def resize(self, size: int, /) -> None:
        """Nothing: the engine asks the disk for its size."""

    def close(self) -> None:
        """Unmap everything."""
        self._records.close()
        self._access.close()
