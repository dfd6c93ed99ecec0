"""Request records: what a connection has ready for requests before the first one comes.

A record is everything that serving a request needs, so that a request goes live without anything being allocated. As a
rule a record is free again as soon as its request is answered. An embedding program may charge by hand instead: each
charge, known by a number of the program's own, lets one request go live, and the program is told which.
"""

import collections
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from xenblk.errors import PeerGoneError, UsageError, WouldBlockError

_log: Final = logging.getLogger("xenblk.blkback")

RECORDS_PER_PAGE_MAX: Final = 32
"""Records per page of a ring, at most."""

USER_ID_MAX: Final = (1 << 64) - 1


class ChargeableRing(Protocol):
    """A connected ring whose records are charged by hand."""

    name: str
    nr_records: int

    def charge(self, user_id: int) -> None:
        """Let one more request go live, as `user_id`, 0 to 2^64 - 1. Any thread may call this, at any time.

        WouldBlockError if all records are charged or in use; PeerGoneError once the ring is closed.
        """


class Charging(Protocol):
    """What an embedding program registers. Calls come from threads of the backend, and should be short.

    Each charge is told once: as live or, when its ring is closed, as discarded. Exceptions are logged.
    """

    def connected(self, ring: ChargeableRing) -> None:
        """A frontend connected; nothing is served before the first charge."""

    def live(self, user_id: int) -> None:
        """A request went live on this charge: the time to charge again."""

    def discarded(self, user_id: int) -> None:
        """The ring was closed before a request used this charge."""


class ChargedRecords:
    """The records of a ring of the Python engine, which has one request at a time. Thread-safe."""

    def __init__(self, nr_records: int, charging: Charging | None) -> None:
        self._nr_records = nr_records
        self._charging = charging
        self._charged: collections.deque[int] = collections.deque()
        self._lock = threading.Lock()

    def charge(self, user_id: int) -> bool:
        """Make one more request possible; False if all records are charged."""
        with self._lock:
            if len(self._charged) >= self._nr_records:
                return False
            self._charged.append(user_id)
            return True

    @property
    def available(self) -> bool:
        """Whether a request may be taken."""
        return self._charging is None or bool(self._charged)

    def take(self) -> None:
        """A request goes live."""
        if self._charging is not None:
            with self._lock:
                user_id = self._charged.popleft()
            self._charging.live(user_id)

    def close(self) -> None:
        """Discard what no request used."""
        while self._charging is not None and self._charged:
            self._charging.discarded(self._charged.popleft())


class ChargedRing:
    """A ring as an embedding program sees it."""

    def __init__(self, name: str, nr_records: int, charge: Callable[[int], bool]) -> None:
        self.name = name
        self.nr_records = nr_records
        self._charge = charge
        self._closed = False
        self._lock = threading.Lock()

    def charge(self, user_id: int) -> None:
        """See ChargeableRing."""
        if not 0 <= user_id <= USER_ID_MAX:
            raise UsageError(f"a charge is known by a number from 0 to {USER_ID_MAX}, not {user_id}")
        with self._lock:
            if self._closed:
                raise PeerGoneError(f"{self.name} is closed, and can be charged no more")
            charged = self._charge(user_id)
        if not charged:
            raise WouldBlockError(f"all {self.nr_records} records of {self.name} are charged or in use")

    def close(self) -> None:
        """No charge reaches the ring from now on."""
        with self._lock:
            self._closed = True


class CarefulCharging:
    """A program's callbacks, whose exceptions stop no ring."""

    def __init__(self, charging: Charging) -> None:
        self._charging = charging

    def connected(self, ring: ChargeableRing) -> None:
        """See Charging."""
        self._call(self._charging.connected, ring)

    def live(self, user_id: int) -> None:
        """See Charging."""
        self._call(self._charging.live, user_id)

    def discarded(self, user_id: int) -> None:
        """See Charging."""
        self._call(self._charging.discarded, user_id)

    def _call(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            callback(argument)
        except PeerGoneError:
            pass  # it charged again while the ring was being closed
        except Exception:
            _log.exception("a callback of charging failed")
