"""What there is in both worlds, as far as a script must know it to make sense, and to keep off the avoided differences.

See differences.py for those.
"""

import dataclasses

from oracle.tally import name_of
from oracle.worlds import DOM0S

from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, Packet, XsMsgType


@dataclasses.dataclass(frozen=True)
class Step:
    """A request on a connection (`ask`), a connection of domain 0 that ends and begins anew (`reconnect`), or what
    befalls a domain, whose number is `name` then: `create`, `destroy`, `shut_down`. `began` is the transaction that a
    request began when it was first made."""

    what: str
    name: str
    kind: int = 0
    tx_id: int = 0
    payload: bytes = b""
    began: int = 0

    def __str__(self) -> str:
        if self.what != "ask":
            return f"{self.what} {self.name}"
        return f"{self.name}: {name_of(self.kind)} tx {self.tx_id} {self.payload[:80]!r}"

    @property
    def first(self) -> str:
        """The request's first argument."""
        return self.payload.partition(b"\0")[0].decode("latin-1")


def began_by(step: Step, reply: Packet | None) -> int:
    """The transaction that a request began, 0 if none."""
    began = reply is not None and step.kind == reply.type == XsMsgType.TRANSACTION_START
    return int(reply.payload[:-1]) if reply is not None and began else 0


class Ledger:
    """Told of each step and its answer."""

    def __init__(self) -> None:
        self.connected: set[str] = set(DOM0S)
        self.existing: set[str] = set()
        self.shut_down: set[str] = set()
        self.transactions: dict[str, list[int]] = {}
        self.watches: dict[str, list[bytes]] = {}
        self.targets: dict[str, set[str]] = {}

    def allows(self, step: Step) -> bool:
        """Whether a step can be done, and leads to nothing that is avoided."""
        if step.what == "create":
            return step.name not in self.existing and not self.transacting
        if step.what == "destroy":
            return step.name in self.connected and step.name not in self.targeted
        if step.what == "shut_down":
            return step.name in self.existing
        if step.kind == XsMsgType.RELEASE and (self.transacting or step.first in self.targeted):
            return False
        # The daemon would notice the state of a domain that is not introduced when it looks at some other domain.
        if step.kind == XsMsgType.INTRODUCE and step.first in self.shut_down:
            return False
        return step.name in self.connected and len(step.payload) <= PAYLOAD_BYTES_MAX

    @property
    def transacting(self) -> list[tuple[str, int]]:
        """Open transactions, each with its connection; a domain's namesake comes only when there are none."""
        return [(name, tx_id) for name, tx_ids in self.transactions.items() for tx_id in tx_ids]

    @property
    def targeted(self) -> set[str]:
        """Guests that are the target of another one that is there."""
        return set().union(*self.targets.values())

    def note(self, step: Step, reply: Packet | None) -> None:
        """A step was done."""
        if step.what == "ask":
            assert reply is not None
            self._note_answer(step, reply)
        elif step.what == "reconnect":
            self._forget(step.name)
        elif step.what == "shut_down":
            self.shut_down.add(step.name)
        else:
            self._forget(step.name)
            self.shut_down.discard(step.name)
            self.existing.symmetric_difference_update({step.name})
            self.connected.discard(step.name)
            self.targets.pop(step.name, None)

    def _forget(self, connection: str) -> None:
        self.transactions.pop(connection, None)
        self.watches.pop(connection, None)

    def _note_answer(self, step: Step, reply: Packet) -> None:
        """Of requests that fail, only the end of a transaction does something."""
        mine = self.transactions.setdefault(step.name, [])
        if step.kind == XsMsgType.TRANSACTION_END and step.tx_id in mine and step.payload in (b"T\0", b"F\0"):
            mine.remove(step.tx_id)
        if reply.type == XsMsgType.ERROR:
            return
        if step.kind == XsMsgType.TRANSACTION_START:
            mine.append(began_by(step, reply))
        elif step.kind == XsMsgType.RESET_WATCHES:
            self._forget(step.name)
        elif step.kind == XsMsgType.WATCH:
            self.watches.setdefault(step.name, []).append(step.payload)
        elif step.kind == XsMsgType.UNWATCH and step.payload in self.watches.get(step.name, []):
            self.watches[step.name].remove(step.payload)
        else:
            self._note_domain(step)

    def _note_domain(self, step: Step) -> None:
        if step.kind == XsMsgType.SET_TARGET:
            self.targets.setdefault(step.first, set()).add(step.payload.split(b"\0")[1].decode())
        elif step.kind == XsMsgType.RESUME:
            self.shut_down.discard(step.first)
        elif step.kind == XsMsgType.INTRODUCE:
            self._forget(step.first)
            self.connected.add(step.first)
        elif step.kind == XsMsgType.RELEASE:
            self._forget(step.first)
            self.connected.discard(step.first)
            self.targets.pop(step.first, None)
