"""The same things happen to two xenstores: the real daemon, and ours without sockets.

A connection is a name: `A` and `B` are sockets of domain 0, `1` to `3` the rings of the guests of that number. What a
world gives back for a step is, per connection, the messages that came, whole, in order.
"""

import contextlib
import itertools
import socket
from typing import Final

from oracle.daemon import RealXenstored
from oracle.ring_client import RingClient

from xenblk.abi import Domid
from xenblk.errors import XenstoreError
from xenblk.xenstore.session import Session
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType, encode
from xenblk.xenstore.xenstored import Xenstored

DOM0S: Final = ("A", "B")
GUESTS: Final = ("1", "2", "3")
PROMPT_S: Final = 0.3
"""After so long without a message the real daemon is asked something else: its answer says that there is none."""
ANSWER_S: Final = 30.0
"""How long the real daemon may take to answer; it is dead if it does not."""
FIRST_FENCE_ID: Final = 0xFE9CE000

Messages = dict[str, list[Packet]]


class OurWorld:
    """Our core, fed directly. It is its own hypervisor; its clock runs a minute per step, so that nobody waits."""

    def __init__(self) -> None:
        self._existing: set[int] = set()
        self._now_s = 0.0
        self.core = Xenstored(self, clock=lambda: self._now_s)
        self._sessions: dict[str, Session] = {}
        for name in DOM0S:
            self._sessions[name] = self.core.connect(Domid(0), lambda: None)

    def exists(self, domid: Domid) -> bool:
        """See Hypervisor."""
        return domid in self._existing

    def disconnect(self, domid: Domid) -> None:
        """See Hypervisor."""

    def connect(self, domid: Domid, port: int) -> None:
        """See Hypervisor."""
        if domid not in self._existing:
            raise XenstoreError("EINVAL", "no such domain")
        if (session := self._sessions.get(str(domid))) is not None and not session.closed:
            session.reset()
        else:
            self._sessions[str(domid)] = self.core.connect(domid, lambda: None)

    def create(self, name: str) -> Messages:
        """A domain is there; it is introduced by a request."""
        self._existing.add(int(name))
        return {}

    def destroy(self, name: str) -> Messages:
        """A domain is gone."""
        self._existing.discard(int(name))
        with contextlib.suppress(XenstoreError):
            self.core.release(Domid(int(name)))
        return self._collect()

    def shut_down(self, name: str) -> Messages:
        """A domain shut down."""
        self.core.shut_down(Domid(int(name)))
        return self._collect()

    def reconnect(self, name: str) -> Messages:
        """A client of domain 0 goes, another one comes."""
        self._sessions[name].close()
        self._sessions[name] = self.core.connect(Domid(0), lambda: None)
        return {}

    def ask(self, name: str, packet: Packet) -> Messages:
        """A request, and all that came of it."""
        self._now_s += 60
        self.core.tick()
        self._sessions[name].feed(packet.encode())
        return self._collect()

    def connected(self, name: str) -> bool:
        """Whether such a connection is there."""
        return name in self._sessions and not self._sessions[name].closed

    def _collect(self) -> Messages:
        found: Messages = {}
        for name, session in self._sessions.items():
            data = b""
            while piece := session.output:
                session.consume(len(piece))
                data += piece
            if data:
                found[name] = list(PacketParser().feed(data))
        return found


class RealWorld:
    """The real daemon. It is told what ours gave, to know how much to wait for; a message too many shows at `fence`."""

    def __init__(self) -> None:
        # A guest's events wait for this process however slow it is.
        self.daemon = RealXenstored("-w", "watch-event=3000", time_scale=50)
        self._sockets: dict[str, socket.socket] = {}
        self._rings: dict[str, RingClient] = {}
        self._parsers: dict[str, PacketParser] = {}
        self._came: dict[str, list[Packet]] = {}
        self._fence_ids = itertools.count(FIRST_FENCE_ID)
        for name in DOM0S:
            self._connect(name)

    def _connect(self, name: str) -> None:
        sock = self._sockets[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.daemon.socket)
        self._begin(name)

    def _begin(self, name: str) -> None:
        self._parsers[name] = PacketParser()
        self._came[name] = []

    def create(self, name: str, _expected: Messages) -> Messages:
        """A domain is there; it is introduced by a request."""
        domid = int(name)
        page = self.daemon.create_domain(domid)
        self._rings[name] = RingClient(page, lambda: self.daemon.notify(domid))
        self._begin(name)
        return {}

    def destroy(self, name: str, expected: Messages) -> Messages:
        """A domain is gone."""
        self._rings.pop(name).close()
        self.daemon.destroy_domain(int(name))
        self._fence("A")
        return self._collect(expected)

    def shut_down(self, name: str, expected: Messages) -> Messages:
        """A domain shut down."""
        self.daemon.set_state(int(name), "s")
        self.daemon.raise_virq()
        self._fence("A")
        return self._collect(expected)

    def reconnect(self, name: str, _expected: Messages) -> Messages:
        """A client of domain 0 goes, another one comes."""
        self._sockets[name].close()
        self._connect(name)
        return {}

    def ask(self, name: str, packet: Packet, expected: Messages) -> Messages:
        """A request, and all that came of it."""
        if packet.type == XsMsgType.RESUME and expected[name][-1].type == XsMsgType.RESUME:
            self.daemon.set_state(int(packet.payload[:-1]), "r")
        self._send(name, packet.encode())
        found = self._collect({name: expected.get(name, [])})
        found |= self._collect({other: messages for other, messages in expected.items() if other != name})
        return found

    def _collect(self, expected: Messages) -> Messages:
        return {name: [self._message(name) for _ in messages] for name, messages in expected.items()}

    def _fence(self, name: str) -> None:
        """Until the daemon has done what it was told before, and all that it said to `name` came."""
        fence = self._ask_nothing(name)
        while (packet := self._read(name, ANSWER_S)).req_id != fence:
            self._came[name].append(packet)

    def _ask_nothing(self, name: str) -> int:
        """A question that changes nothing, and whose answer does not matter: its request's number."""
        fence = next(self._fence_ids)
        self._send(name, encode(XsMsgType.GET_DOMAIN_PATH, fence, 0, b"0\0"))
        return fence

    def fence(self, names: list[str]) -> Messages:
        """Messages that came and were not expected, on any connection."""
        extra: Messages = {}
        for name in names:
            self._fence(name)
            if self._came[name]:
                extra[name], self._came[name] = self._came[name], []
        return extra

    def _message(self, name: str) -> Packet:
        """The next one; TimeoutError if the daemon has none, however slow it is."""
        if not self._came[name]:
            try:
                return self._read(name, PROMPT_S)
            except TimeoutError:
                if self.daemon.process.poll() is not None:
                    raise
                self._fence(name)
        if not self._came[name]:
            raise TimeoutError("nothing came")
        return self._came[name].pop(0)

    def _send(self, name: str, data: bytes) -> None:
        if name in self._sockets:
            self._sockets[name].sendall(data)
        else:
            self._rings[name].send(data)

    def _read(self, name: str, patience_s: float) -> Packet:
        parser = self._parsers[name]
        while (packet := parser.next()) is None:
            parser.feed(self._receive(name, parser.missing_bytes, patience_s))
        return packet

    def _receive(self, name: str, nr_bytes: int, patience_s: float) -> bytes:
        if name not in self._sockets:
            ring = self._rings[name]
            return ring.receive(1, patience_s) + ring.take(nr_bytes - 1)
        self._sockets[name].settimeout(patience_s)
        data = self._sockets[name].recv(nr_bytes)
        if not data:
            raise ConnectionError(f"the real xenstored closed {name}")
        return data

    def close(self) -> None:
        """End it all."""
        for sock in self._sockets.values():
            sock.close()
        for ring in self._rings.values():
            ring.close()
        self.daemon.close()
