"""An end of an emulated event channel: the shared word that is the event, and the eventfd that wakes a sleeper."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from xenblk._native import ffi, lib
from xenblk.abi import EvtchnPort


@dataclasses.dataclass(frozen=True, slots=True)
class EventChannelStatistics:
    """What one end did: events sent, sends that met an event not taken yet, events taken, wake-ups without one."""

    sent: int
    coalesced: int
    delivered: int
    spurious: int


class EmulatedEventChannel:
    """One end. Owns the two eventfds; `word` and `remote_word` point into `words`, the memory that all ends share.

    `native` is this end as a native engine uses it (xenblk/channel.h).
    """

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
        self._on_close = on_close
        self._native = ffi.new("struct xb_evtchn_port *")
        self._native.word = word
        self._native.remote_word = remote_word
        self._native.fd, self._native.remote_fd = eventfds
        self._closed = False
        self.native = ffi.new("struct xb_channel *")
        lib.xb_evtchn_channel(self._native, self.native)

    def fileno(self) -> int:
        """The eventfd; readable after an event, until `wait` took it."""
        return int(self._native.fd)

    @property
    def remote_bound(self) -> bool:
        """False while nobody holds the other end: before it is bound, or after its process closed it or died."""
        return not lib.xb_evtchn_load(self._native.word) & lib.XB_EVTCHN_UNBOUND

    def notify(self) -> None:
        """Set the other end's bit and wake its owner if that was news; silently dropped while it is unbound."""
        lib.xb_evtchn_notify(self._native)

    def wait(self, timeout_s: float | None) -> bool:
        """Take an event, waiting for one if there is none."""
        timeout_ns = -1 if timeout_s is None else max(0, int(timeout_s * 1e9))
        return bool(lib.xb_evtchn_wait(self._native, timeout_ns))

    def mask(self) -> None:
        """Withhold wake-ups; the bit is still set by events."""
        lib.xb_evtchn_mask(self._native.word)

    def unmask(self) -> None:
        """Allow wake-ups; one that came meanwhile is delivered now."""
        if lib.xb_evtchn_unmask(self._native.word):
            lib.xb_evtchn_kick(self._native.fd)

    def statistics(self) -> EventChannelStatistics:
        """What this end did so far."""
        native = self._native
        return EventChannelStatistics(
            int(native.sent), int(native.coalesced), int(native.delivered), int(native.spurious)
        )

    def wake(self) -> None:
        """Wake our own waiter, from any thread."""
        lib.xb_evtchn_wake(self._native)

    def close(self) -> None:
        """Close the port; the other end is told by the host."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self.port)
        fds = self._native.fd, self._native.remote_fd
        self._native.fd = self._native.remote_fd = -1  # first: somebody may be about to wake us
        for fd in fds:
            os.close(fd)
