"""A xenstore core with clients around it as a server has them, and what must hold whatever the clients do.

The clients' connections do as server.py's do, without sockets: they read while the session serves, and go on when it
says that something changed.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any, Final

from fuzz_wire import expected

from xenblk.abi import Domid
from xenblk.errors import MessageTooLongError, XenstoreError
from xenblk.xenstore.domain import Quotas
from xenblk.xenstore.session import OUTPUT_BYTES_MAX
from xenblk.xenstore.trace import Trace
from xenblk.xenstore.wire import HEADER_BYTES, PAYLOAD_BYTES_MAX, Packet, PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

CLIENTS: Final = (0, 0, 5, 5, 7)
DOMIDS: Final = (5, 7, 9)
MESSAGE_BYTES_MAX: Final = HEADER_BYTES + PAYLOAD_BYTES_MAX
PIECE_BYTES_MAX: Final = 1 << 14
OBJECT_BYTES: Final = 512
PATIENCE_STEPS: Final = 100

_ERROR: Final = re.compile(rb"E[A-Z0-9]+\0")


class Xen:
    """Domains 5, 7 and 9 exist, whether they were introduced or not."""

    def exists(self, domid: Domid) -> bool:
        return domid in DOMIDS

    def connect(self, domid: Domid, port: int) -> None:
        if domid not in DOMIDS:
            raise XenstoreError("EINVAL", f"domain {domid}")

    def disconnect(self, domid: Domid) -> None:
        pass


class Nowhere(Trace):
    """A trace that writes no file, whatever path a client names."""

    def open(self, path: Path | None = None) -> None:
        self._file = io.BytesIO()

    def report(self, text: str, path: Path | None) -> None:
        pass


class Client:
    """A connection: what was sent and is not read yet, what the session was fed, and what it answered."""

    def __init__(self, world: "World", domid: int) -> None:
        self.world, self.domid = world, domid
        self.unread = b""
        self.begin()

    def begin(self) -> None:
        """A new connection."""
        self.session = self.world.core.connect(Domid(self.domid), lambda: self.world.changed.append(self))
        self.anew()

    def anew(self) -> None:
        """Nothing was said on this connection."""
        self.fed, self.unread, self.reading = b"", b"", True
        self.answers: list[Packet] = []
        self._parser = PacketParser()

    def go_on(self) -> None:
        """What the server does when there is something to read or something changed."""
        while not self.session.closed and self.reading and self.unread:
            piece, self.unread = self.unread[:PIECE_BYTES_MAX], self.unread[PIECE_BYTES_MAX:]
            self.feed(piece)

    def feed(self, piece: bytes) -> None:
        self.fed += piece
        try:
            self.session.feed(piece)
        except MessageTooLongError:
            self._broken()
        self.update()

    def update(self) -> None:
        """Begin again if the connection has ended; otherwise see whether to read on."""
        if self.session.closed:
            self.check_answers(complete=False)
            self.begin()
        self.reading = not self.session.waiting

    def take(self, nr_bytes: int) -> None:
        output = self.session.output[:nr_bytes]
        self._receive(output)
        try:
            self.session.consume(len(output))
        except MessageTooLongError:
            self._broken()
        self.update()

    def _broken(self) -> None:
        """The session refuses the stream: rightly, and not before it answered what came before."""
        assert expected(self.fed)[1], "a stream without fault was refused"
        self._receive(self.session.output)
        self.check_answers(complete=True)
        self.session.close()

    def _receive(self, output: bytes) -> None:
        for packet in self._parser.feed(output):
            if packet.type == XsMsgType.WATCH_EVENT:
                assert (packet.req_id, packet.tx_id, packet.payload.count(b"\0")) == (0, 0, 2), packet
            else:
                self.answers.append(packet)

    @property
    def owed(self) -> int:
        """How many answers have not come yet."""
        return len(expected(self.fed)[0]) - len(self.answers)

    def check_answers(self, *, complete: bool) -> None:
        """One to each request, in order."""
        requests = expected(self.fed)[0]
        assert len(self.answers) <= len(requests)
        assert not complete or len(self.answers) == len(requests)
        for request, answer in zip(requests, self.answers, strict=False):
            assert (answer.req_id, answer.tx_id) == (request.req_id, request.tx_id)
            if answer.type == XsMsgType.ERROR:
                assert _ERROR.fullmatch(answer.payload), answer
            else:
                assert answer.type == request.type


class World:
    """The core, its clients and the time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.core = Xenstored(Xen(), trace=Nowhere(), clock=lambda: self.now_s)
        self.changed: list[Client] = []
        self.outstanding_max = 0
        for domid in (5, 7):
            self.core.introduce(Domid(domid))
            self._make(f"/local/domain/{domid}", f"n{domid}")
            self._make(f"/local/domain/{domid}/a", f"n{domid}", "r5")
        self._make("/a", "b0")
        self._make("/a/b", "n5", "b7")
        self.clients = [Client(self, domid) for domid in CLIENTS]

    def _make(self, path: str, *perms: str) -> None:
        self.core.mkdir(path)
        self.core.set_perms(path, perms)

    def do(self, step: list[Any]) -> None:
        """One step of a case; whoever is concerned by it goes on."""
        who, what = step
        if isinstance(who, int):
            self._do_client(self.clients[who], what)
        elif who == "time":
            self.now_s += what
        elif who == "make":
            self.core.introduce(Domid(what))
        elif self.core.domains.get(what) is not None:
            self.core.release(Domid(what))
        self.settle()

    def _do_client(self, client: Client, what: str | int) -> None:
        if isinstance(what, int):
            client.take(what)
        elif what == "leave":
            client.session.close()
        elif what == "reset":
            client.session.reset()
            client.anew()
        else:
            client.unread += bytes.fromhex(what)
        client.go_on()

    def settle(self) -> None:
        """What the server does between two waits."""
        self.core.tick()
        while self.changed:
            client = self.changed.pop()
            if client.session.closed:
                client.update()
            else:
                client.feed(b"")
            client.go_on()

    def _drain(self) -> None:
        """All take what there is for them, and time passes."""
        for _ in range(PATIENCE_STEPS):
            self.now_s += 1
            self.settle()
            for client in self.clients:
                while client.session.output:
                    client.take(1 << 16)
                client.go_on()
                self.settle()
            if not any(client.owed or client.unread for client in self.clients):
                return

    def come_to_rest(self) -> None:
        """In the end whoever is not held back by a quota has all answers, and once there is room, so have all."""
        self._drain()
        for client in self.clients:
            assert client.session.waiting or not (client.owed or client.unread), "a client was forgotten"
        for field in Quotas.__slots__:
            setattr(self.core.quotas, field, getattr(Quotas(), field))
        for domain in self.core.domains:
            domain.resume()
        self._drain()
        for client in self.clients:
            client.check_answers(complete=True)
            assert not client.unread, "a client waits for ever"

    def check_bounds(self) -> None:
        """What is kept for a client is bounded."""
        self.outstanding_max = max(self.outstanding_max, self.core.quotas.outstanding)
        for client in self.clients:
            session = client.session
            assert session.domain.privileged or session.domain.nr_outstanding <= self.outstanding_max
            assert len(pickle.dumps(session._parser)) <= OBJECT_BYTES + PIECE_BYTES_MAX + MESSAGE_BYTES_MAX
            if len(output := session.output) > OUTPUT_BYTES_MAX:
                self._check_replies(client, output)

    def _check_replies(self, client: Client, output: bytes) -> None:
        parser = pickle.loads(pickle.dumps(client._parser)).feed(output)
        replies = sum(HEADER_BYTES + len(p.payload) for p in parser if p.type != XsMsgType.WATCH_EVENT)
        assert replies <= OUTPUT_BYTES_MAX + MESSAGE_BYTES_MAX

    def check(self) -> None:
        """The tree is whole, and each domain is charged for what it has and for nothing else."""
        assert self.core.tree.check() == []
        for domain in self.core.domains:
            nodes = ((path, self.core.tree.get(path)) for path in domain.owned)
            owned_bytes = sum(len(path) + node.size_bytes for path, node in nodes if node is not None)
            assert domain.nr_outstanding == 0, f"domain {domain.domid}: {domain.nr_outstanding} outstanding"
            assert domain.memory_bytes >= owned_bytes, f"domain {domain.domid} is charged too little"

    def everybody_leaves(self) -> None:
        """All clients disconnect."""
        for client in self.clients:
            client.session.close()

    def check_nothing_left(self) -> None:
        """Nothing is kept for clients that are gone."""
        assert self.core.nr_transactions == 0
        for domain in self.core.domains:
            nodes = ((path, self.core.tree.get(path)) for path in domain.owned)
            owned_bytes = sum(len(path) + node.size_bytes for path, node in nodes if node is not None)
            assert domain.memory_bytes == owned_bytes, f"domain {domain.domid}: {domain.memory_bytes}, {owned_bytes}"
            assert (domain.nr_watches, domain.nr_transactions, domain.sessions) == (0, 0, [])
