"""What was compared: requests by type and answer, events, and how often an intended difference was met."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from xenblk.xenstore.wire import Packet, XsMsgType


def name_of(kind: int) -> str:
    """A message type's name, or its number."""
    return XsMsgType(kind).name if kind in set(XsMsgType) else str(kind)


@dataclasses.dataclass
class Tally:
    """Sums over any number of duels. `answers` counts by (request, who asked, OK or the error); `befallen` what
    happened to domains; `explained` by the place in EXPLAINED."""

    steps: int = 0
    answers: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    befallen: Counter[str] = dataclasses.field(default_factory=Counter)
    events: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    explained: Counter[int] = dataclasses.field(default_factory=Counter)

    def answered(self, request: Packet, who: str, reply: Packet) -> None:
        """A request's answer was the same."""
        outcome = reply.payload[:-1].decode() if reply.type == XsMsgType.ERROR else "OK"
        kind = name_of(request.type) if request.type in set(XsMsgType) else "unknown"
        self.answers[kind, who, outcome] += 1

    def told(self, who: str, packets: Iterable[Packet]) -> None:
        """Events were the same."""
        for packet in packets:
            if packet.type == XsMsgType.WATCH_EVENT:
                self.events[who, _sort(packet.payload)] += 1


def _sort(event: bytes) -> str:
    return {b"/": "of nodes", b"@": "of domains"}.get(event[:1], "relative")
