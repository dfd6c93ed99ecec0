"""The line that a ring logs every 10 seconds where `log_stats` is set, as print_stats in Linux's blkback.c has it.

Unlike there, printing changes nothing: the numbers are those since the ring's counters began.
"""

import logging
from typing import Final

from xenblk.blkback.parameters import BackendParameters
from xenblk.counters import Counters

INTERVAL_S: Final = 10.0
LOGGER: Final = "xenblk.blkback.stats"
_log: Final = logging.getLogger(LOGGER)


class StatsLog:
    """Logs for the ring `name`, at level INFO, when `tick` is called often enough."""

    def __init__(self, name: str, counters: Counters, parameters: BackendParameters) -> None:
        self._name = name
        self._counters = counters
        self._parameters = parameters
        self._next_s = 0.0

    def tick(self, now_s: float) -> None:
        """Log if it is time, by any monotonic clock."""
        if self._parameters.log_stats and now_s >= self._next_s:
            self._next_s = now_s + INTERVAL_S
            _log.info("%s", self.line())

    def line(self) -> str:
        """What would be logged now."""
        counters = self._counters
        return (
            f"({self._name}): oo {counters.oo_req:3}  |  rd {counters.rd_req:4}  |  wr {counters.wr_req:4}  "
            f"|  f {counters.f_req:4}  |  ds {counters.ds_req:4} "
            f"| pg: {counters.persistent_current:4}/{self._parameters.max_persistent_grants:4}"
        )
