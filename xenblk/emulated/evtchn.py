"""An end of an emulated event channel: the shared word that is the event, and the eventfd that wakes a sleeper."""

import contextlib
import dataclasses
import os
import select
from collections.abc import Callable
from typing import Any

from xenblk._native import lib
from xenblk.abi import EvtchnPort


@dataclasses.dataclass(frozen=True, slots=True)
class EventChannelStatistics:
    """What one end did: events sent, sends that met an event not taken yet, events taken, wake-ups without one."""

    sent: int
    coalesced: int
    delivered: int
    spurious: int


class EmulatedEventChannel:
    """One end. Owns the two eventfds; `word` and `remote_word` point into `words`, the memory that all ends share."""

    def __init__(
        self,
        port: EvtchnPort,
        words: Any,
        word: Any,
        remote_word: Any,
        eventfds: tuple[int, int],
        on_close: Callable[[EvtchnPort], None],
    ) -> None:
        self.port = port
        self._words = words  # a pointer does not keep what it points into
        self._word = word
        self._remote_word = remote_word
        self._fd, self._remote_fd = eventfds
        self._on_close = on_close
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._sent = self._coalesced = self._delivered = self._spurious = 0

    def fileno(self) -> int:
        """The eventfd; readable after an event, until `wait` took it."""
        return self._fd

    @property
    def remote_bound(self) -> bool:
        """False while nobody holds the other end: before it is bound, or after its process closed it or died."""
        return not lib.xb_evtchn_load(self._word) & lib.XB_EVTCHN_UNBOUND

    def notify(self) -> None:
        """Set the other end's bit and wake its owner if that was news; silently dropped while it is unbound."""
        if not self.remote_bound:
            return
        self._sent += 1
        if lib.xb_evtchn_set_pending(self._remote_word):
            os.eventfd_write(self._remote_fd, 1)
        else:
            self._coalesced += 1

    def wait(self, timeout_s: float | None) -> bool:
        """Take an event, waiting for one if there is none. The eventfd is emptied before the bit is cleared.

        In that order a sender that finds the bit still set may skip the eventfd: we clear the bit later, and look at
        the ring after that. The other way round a wake-up could be eaten together with an older one.
        """
        if self._poll.poll(None if timeout_s is None else max(0, timeout_s * 1000)):
            with contextlib.suppress(OSError):  # emptied by nobody yet, or closed by another thread
                os.eventfd_read(self._fd)
        if lib.xb_evtchn_clear_pending(self._word):
            self._delivered += 1
            return True
        self._spurious += 1
        return False

    def mask(self) -> None:
        """Withhold wake-ups; the bit is still set by events."""
        lib.xb_evtchn_mask(self._word)

    def unmask(self) -> None:
        """Allow wake-ups; one that came meanwhile is delivered now."""
        if lib.xb_evtchn_unmask(self._word):
            os.eventfd_write(self._fd, 1)

    def statistics(self) -> EventChannelStatistics:
        """What this end did so far."""
        return EventChannelStatistics(self._sent, self._coalesced, self._delivered, self._spurious)

    def wake(self) -> None:
        """Wake our own waiter, from any thread."""
        lib.xb_evtchn_set_pending(self._word)
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close the port; the other end is told by the host."""
        if self._fd < 0:
            return
        self._on_close(self.port)
        os.close(self._fd)
        os.close(self._remote_fd)
        self._fd = self._remote_fd = -1
