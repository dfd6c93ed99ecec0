"""One client's life: bytes in, bytes out. No sockets and no rings; whoever feeds it also takes `output` away.

Each request gets exactly one reply, in order. Events of watches go out in between; the event of a session's own write
comes before the reply to it, as from the C daemon.

What bounds a client, besides its domain's quotas: requests wait while too much output does, and for a guest also while
too many of its requests are outstanding, that is until their replies and the events that they caused were taken.
"""

import collections
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from xenblk.errors import XenstoreError
from xenblk.xenstore.domain import Domain
from xenblk.xenstore.requests import HANDLERS, OUTSIDE_TRANSACTIONS, PRIVILEGED, Handler
from xenblk.xenstore.store import View, refuse
from xenblk.xenstore.transaction import Transaction
from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, Packet, PacketParser, XsMsgType, encode

if TYPE_CHECKING:
    from xenblk.xenstore.xenstored import Xenstored

OUTPUT_BYTES_MAX: Final = 1 << 16
"""Above this much output that nobody took, no more requests are served."""

_MESSAGES_AT_ONCE: Final = 64
"""Of so much output, so that a try to send costs the same however much waits."""

UNREAD_BYTES_MAX: Final = 1 << 23
"""Events come whether or not the client reads; one that lets so much pile up is disconnected."""

GUEST_EVENT_PATIENCE_S: Final = 20.0
"""An event that a guest did not take for so long is dropped, so that whoever caused it can go on."""


class Outstanding:
    """A guest's request, until its reply and the events that it caused were taken."""

    __slots__ = ("domain", "nr_messages")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.nr_messages = 1  # its reply is to come, even if the events before it are gone by then
        domain.nr_outstanding += 1

    def taken(self) -> None:
        """One of its messages is gone."""
        self.nr_messages -= 1
        if self.nr_messages == 0:
            self.domain.nr_outstanding -= 1
            self.domain.resume()


_Message = tuple[bytes, Outstanding | None, bytes | None, float | None]
"""Something to send: the bytes, whose request they belong to, and of an event its payload, and for a guest the time at
which it is given up. A plain tuple, since there is one for each reply."""


class Session:
    """A connection of a domain. `feed` and `consume` raise PeerError when the stream is beyond repair.

    `on_change` is called when there is new output, when requests that waited can go on, and when the session was closed
    by what another one did.
    """

    def __init__(self, core: "Xenstored", domain: Domain, number: int, on_change: Callable[[], None]) -> None:
        self.core = core
        self.domain = domain
        self.domid = domain.domid
        self._limited = not domain.privileged
        self.operations = core.tree.operations
        self.quotas = core.quotas
        self.number = number
        self.closed = False
        self.transactions: dict[int, Transaction] = {}
        self.last_transaction = 0
        self.after_reply: Callable[[], None] | None = None
        """What the request that is being served does when it is answered."""
        self._on_change = on_change
        self._parser = PacketParser()
        self._queue: collections.deque[_Message] = collections.deque()
        self._events: set[bytes] = set()
        self._queued_bytes = 0
        self._sent_bytes = 0
        self._serving = False

    # Output

    @property
    def output(self) -> bytes:
        """The next bytes to send, empty when there are none. Not always all of them, if there are many."""
        queue = self._queue
        if not queue:
            return b""
        if len(queue) == 1:
            return queue[0][0][self._sent_bytes :]
        few = self._queued_bytes <= OUTPUT_BYTES_MAX
        messages = queue if few else itertools.islice(queue, _MESSAGES_AT_ONCE)
        return b"".join([message[0] for message in messages])[self._sent_bytes :]

    def consume(self, nr_bytes: int) -> None:
        """Say how much of `output` was taken; requests that waited for that are served."""
        queue = self._queue
        nr_bytes += self._sent_bytes
        while queue and nr_bytes >= (message_bytes := len(queue[0][0])):
            nr_bytes -= message_bytes
            self._forget(queue.popleft())
        self._sent_bytes = nr_bytes
        if self._parser.packets:
            self.work()

    def _forget(self, message: _Message) -> None:
        data, cause, event, _ = message
        self._queued_bytes -= len(data)
        if event is not None:
            self._events.discard(event)
        if self._limited:
            self.domain.memory_bytes -= len(data)
        if cause is not None:
            cause.taken()

    def _send(self, message: _Message) -> None:
        data = message[0]
        self._queue.append(message)
        self._queued_bytes += len(data)
        if self._limited:
            self.domain.memory_bytes += len(data)

    def send_event(self, path: str, token: bytes) -> None:
        """Queue a watch event, unless it is too long to send, or the same one waits and says as much.

        Each @introduceDomain or @releaseDomain stands for another domain, so of those none is left out. A guest whose
        memory is used up gets none; whoever else has too much unread is disconnected.
        """
        event = path.encode("latin-1") + b"\0" + token + b"\0"
        if self.closed or len(event) > PAYLOAD_BYTES_MAX or (event in self._events and not path.startswith("@")):
            return
        data = encode(XsMsgType.WATCH_EVENT, 0, 0, event)
        expires_s = None
        if not self.domain.privileged:
            if self.domain.memory_bytes + len(data) >= self.core.quotas.memory:
                return
            expires_s = self.core.clock() + GUEST_EVENT_PATIENCE_S
            self.core.due_at(expires_s)
        elif self._queued_bytes > UNREAD_BYTES_MAX:
            self.close()
            return
        self._events.add(event)
        if self.core.trace.active:
            self.core.trace.message(self, "OUT", XsMsgType.WATCH_EVENT, event)
        cause = self.core.cause
        if cause is not None:
            cause.nr_messages += 1
        self._send((data, cause, event, expires_s))
        if not self._serving:
            self._on_change()

    def expire(self, now_s: float) -> float | None:
        """Drop events that waited for too long, and say when the next will have."""
        kept: collections.deque[_Message] = collections.deque()
        for i, message in enumerate(self._queue):
            expires_s, begun = message[3], i == 0 and self._sent_bytes > 0
            if expires_s is None or expires_s > now_s or begun:
                kept.append(message)
            else:
                self._forget(message)
        self._queue = kept
        return min((at_s for *_, at_s in kept if at_s is not None and at_s > now_s), default=None)

    # Input

    @property
    def waiting(self) -> bool:
        """Whether no more requests are served before something else happens."""
        return self._queued_bytes > OUTPUT_BYTES_MAX or (self._limited and self.core.is_held_back(self.domain))

    @property
    def wanted_bytes(self) -> int:
        """How much to read at most, for who reads no more than is needed; 0 while requests wait."""
        return 0 if self.waiting else self._parser.missing_bytes

    def feed(self, data: bytes) -> None:
        """Take bytes from the client and answer the requests that they complete."""
        self._parser.feed(data)
        self.work()

    def resume(self) -> None:
        """Requests that waited may be able to go on; whoever feeds this session is told, and lets it work."""
        if not self.closed and not self._serving:
            self._on_change()

    def work(self) -> None:
        """Answer requests that had to wait, as far as they need not any more."""
        packets, broken = self._parser.packets, self._parser.broken
        if self._serving or not (packets or broken):
            return
        self._serving = True
        try:
            while packets and not self.closed and not self.waiting:
                self._serve(packets.popleft())
            if broken and not packets:
                self._parser.next()
        finally:
            self._serving = False

    def _serve(self, packet: Packet) -> None:
        core = self.core
        kind, req_id, tx_id, payload = packet
        if core.trace.active:
            core.trace.message(self, "IN", kind, payload)
        cause = None
        if self._limited:
            cause = core.cause = Outstanding(self.domain)
        try:
            payload = self._handler(kind)(self, self._view(kind, tx_id) if tx_id else core.tree, packet)
            if len(payload) > PAYLOAD_BYTES_MAX:
                raise refuse("E2BIG", "a reply")
        except XenstoreError as e:
            kind, payload = XsMsgType.ERROR, e.name.encode() + b"\0"
        if cause is not None:
            core.cause = None
            core.charge(self.domain, packet)
        if self.closed:  # by the events of the very request that this answers
            return
        if core.trace.active:
            core.trace.message(self, "OUT", kind, payload)
        self._send((encode(kind, req_id, tx_id, payload), cause, None, None))
        if self.after_reply is not None:
            rest, self.after_reply = self.after_reply, None
            rest()

    def _handler(self, kind: int) -> Handler:
        handler = HANDLERS.get(kind)
        if handler is None:
            raise refuse("ENOSYS", f"operation {kind}")
        if self._limited and kind in PRIVILEGED:
            raise refuse("EACCES", f"operation {kind}")
        return handler

    def _view(self, kind: int, tx_id: int) -> View:
        if kind in OUTSIDE_TRANSACTIONS:
            return self.core.tree
        transaction = self.transactions.get(tx_id)
        if transaction is None:
            raise refuse("ENOENT", f"transaction {tx_id}")
        return transaction

    # Ends

    def reset(self) -> None:
        """Begin anew: no watches, no transactions, nothing to send, nothing half received."""
        self.core.watches.remove_all(self)
        self.drop_transactions()
        while self._queue:
            self._forget(self._queue.popleft())
        self._sent_bytes = 0
        self._parser = PacketParser()

    def drop_transactions(self) -> None:
        """Give up all transactions."""
        for transaction in self.transactions.values():
            self.forget_transaction(transaction)
        self.transactions.clear()

    def forget_transaction(self, transaction: Transaction) -> None:
        """One transaction is over."""
        transaction.discard()
        self.domain.nr_transactions -= 1
        self.core.nr_transactions -= 1

    def close(self) -> None:
        """Forget everything; nothing is sent any more."""
        if not self.closed:
            self.closed = True
            self.reset()
            self.core.disconnected(self)
            self._on_change()
