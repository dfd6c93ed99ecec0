"""The host's table of event channels: who holds which end, and waking the one that is left.

A channel has two ends. Each end is a word (evtchn.h) in memory that everyone shares, and an eventfd. The allocating
side has end 0 from the start, end 1 is free until somebody binds it and free again when that somebody closes or dies;
words and eventfds belong to the channel, so a second process can bind where a first one died. A channel goes when its
allocating side closes.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid, EvtchnPort
from xenblk.emulated.evtchn import EmulatedEventChannel
from xenblk.errors import HostError

CHANNELS_MAX: Final = 4096
WORDS_BYTES: Final = CHANNELS_MAX * 2 * 4


@dataclasses.dataclass(slots=True)
class End:
    """One end of a channel: the domain's port number for it, and the process (any object) that holds it."""

    domid: Domid
    port: EvtchnPort
    holder: object | None = None


@dataclasses.dataclass(slots=True)
class Channel:
    """A channel of the table; `ends[1]` is None while unbound."""

    number: int
    remote_domid: Domid
    eventfds: tuple[int, int]
    ends: list[End | None]


class ChannelTable:
    """All channels of an emulated Xen. `words` is the shared memory of WORDS_BYTES, kept by the caller."""

    def __init__(self, words: Any) -> None:
        self._words = ffi.from_buffer("uint32_t[]", words)
        self._channels: dict[int, Channel] = {}
        self._ports: dict[tuple[Domid, EvtchnPort], tuple[Channel, int]] = {}

    def alloc_unbound(self, domid: Domid, remote: Domid, holder: object) -> tuple[EvtchnPort, Channel]:
        """Give `domid` a new port that `remote` may bind to; HostError ENOSPC when there are no more channels."""
        number = self._free_number()
        eventfds = (os.eventfd(0, os.EFD_CLOEXEC), os.eventfd(0, os.EFD_CLOEXEC))
        channel = Channel(number, remote, eventfds, [None, None])
        self._channels[number] = channel
        for side in (0, 1):
            self._words[number * 2 + side] = 0
        lib.xb_evtchn_set_unbound(self._word(channel, 0), 1)
        return self._take_end(channel, 0, domid, holder), channel

    def bind_interdomain(
        self, domid: Domid, remote: Domid, remote_port: EvtchnPort, holder: object
    ) -> tuple[EvtchnPort, Channel]:
        """Bind the free end of `remote`'s port; HostError EINVAL if there is none for `domid`.

        Both ends come up pending once, as Xen does it, so that nothing sent before the binding is missed.
        """
        channel, side = self._ports.get((remote, remote_port), (None, 0))
        if channel is None or side != 0 or channel.remote_domid != domid or channel.ends[1] is not None:
            raise HostError(
                "EINVAL", f"domain {remote} has no event channel {remote_port} that is free for domain {domid} to bind"
            )
        port = self._take_end(channel, 1, domid, holder)
        lib.xb_evtchn_set_unbound(self._word(channel, 1), 0)
        lib.xb_evtchn_set_unbound(self._word(channel, 0), 0)
        self._kick(channel, 0)
        self._kick(channel, 1)
        return port, channel

    def close(self, domid: Domid, port: EvtchnPort, holder: object) -> None:
        """Close a port that `holder` holds; the other end becomes unbound and is woken. HostError EINVAL otherwise."""
        channel, side = self._ports.get((domid, port), (None, 0))
        end = channel.ends[side] if channel else None
        if channel is None or end is None or end.holder is not holder:
            raise HostError("EINVAL", f"domain {domid} has no event channel {port} of this process")
        self._drop_end(channel, side)

    def close_all(self, holder: object) -> None:
        """Close every port of a process that ended."""
        for channel in list(self._channels.values()):
            for side in (0, 1):
                end = channel.ends[side]
                if end is not None and end.holder is holder:
                    self._drop_end(channel, side)

    def end_of(
        self, channel: Channel, side: int, port: EvtchnPort, on_close: Callable[[EvtchnPort], None]
    ) -> EmulatedEventChannel:
        """An end that the host holds itself, to use."""
        own_fd, remote_fd = (os.dup(channel.eventfds[s]) for s in (side, 1 - side))
        words = self._word(channel, side), self._word(channel, 1 - side)
        return EmulatedEventChannel(port, self._words, *words, (own_fd, remote_fd), on_close)

    def ports(self, domid: Domid) -> list[EvtchnPort]:
        """The ports a domain has now."""
        return sorted(port for owner, port in self._ports if owner == domid)

    def _free_number(self) -> int:
        number = next(n for n in itertools.count() if n not in self._channels)
        if number >= CHANNELS_MAX:
            raise HostError("ENOSPC", f"all {CHANNELS_MAX} event channels are in use")
        return number

    def _take_end(self, channel: Channel, side: int, domid: Domid, holder: object) -> EvtchnPort:
        port = next(p for n in itertools.count(1) if (domid, p := EvtchnPort(n)) not in self._ports)
        channel.ends[side] = End(domid, port, holder)
        self._ports[domid, port] = (channel, side)
        return port

    def _drop_end(self, channel: Channel, side: int) -> None:
        end, other = channel.ends[side], channel.ends[1 - side]
        assert end is not None
        del self._ports[end.domid, end.port]
        channel.ends[side] = None
        if other is not None:
            lib.xb_evtchn_set_unbound(self._word(channel, 1 - side), 1)
            self._kick(channel, 1 - side)
        if channel.ends == [None, None]:
            del self._channels[channel.number]
            for fd in channel.eventfds:
                os.close(fd)

    def _kick(self, channel: Channel, side: int) -> None:
        # Also where the bit is set already: whoever set it, or took the wake-up of it, may have died in between.
        word = self._word(channel, side)
        lib.xb_evtchn_set_pending(word)
        if not lib.xb_evtchn_load(word) & lib.XB_EVTCHN_MASKED:
            lib.xb_evtchn_kick(channel.eventfds[side])

    def _word(self, channel: Channel, side: int) -> Any:
        return self._words + channel.number * 2 + side
