"""How fast guests may write while others are in a transaction, so that their writes cannot make it fail for ever.

Each guest has credit for a burst of writes; together they earn a number of writes per second. A write costs only while
some transaction is open: without one nobody is harmed. A guest without credit is not served until it has earned some.

Source: xenstored's write rate limit (XSA-206).
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from xenblk.abi import Domid

BURST_WRITES: Final = 10.0
WRITES_PER_S: Final = 200.0


@dataclasses.dataclass(slots=True)
class _Credit:
    writes: float
    at_s: float


class WriteLimit:
    """Credits of the guests that wrote while it mattered."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._credits: dict[Domid, _Credit] = {}

    def charge(self, domid: Domid) -> None:
        """A guest wrote."""
        self._credits.setdefault(domid, _Credit(BURST_WRITES, self._clock()))
        self._update(domid).writes -= 1

    def wait_s(self, domid: Domid) -> float:
        """How long a guest has to wait until it is served again; 0 if it need not."""
        if domid not in self._credits:
            return 0.0
        credit = self._update(domid)
        if credit.writes >= BURST_WRITES:
            del self._credits[domid]
        return max(0.0, -credit.writes / self._rate())

    def _rate(self) -> float:
        return WRITES_PER_S / max(1, len(self._credits))

    def _update(self, domid: Domid) -> _Credit:
        credit, now_s = self._credits[domid], self._clock()
        credit.writes = min(BURST_WRITES, credit.writes + (now_s - credit.at_s) * self._rate())
        credit.at_s = now_s
        return credit

    def forget(self, domid: Domid) -> None:
        """A guest is gone."""
        self._credits.pop(domid, None)
