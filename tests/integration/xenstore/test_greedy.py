"""Clients that take more than their share: what the server keeps for each is bounded, an other client is answered
meanwhile, and nothing is left of the greedy one when it is gone.
"""

import contextlib
import itertools
import os
import pickle
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenblk.abi import DOM0, Domid
from xenblk.xenstore.client import Xenstore
from xenblk.xenstore.domain import Quotas
from xenblk.xenstore.server import RECEIVE_BYTES
from xenblk.xenstore.session import OUTPUT_BYTES_MAX, UNREAD_BYTES_MAX
from xenblk.xenstore.trace import Trace
from xenblk.xenstore.wire import HEADER_BYTES, PAYLOAD_BYTES_MAX, Packet, PacketParser, XsMsgType

GUEST = Domid(5)
DEADLINE_S = 30.0
MESSAGE_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX
UNSERVED_BYTES_MAX = 2 * RECEIVE_BYTES + MESSAGE_BYTES_MAX
BOTH = pytest.mark.parametrize("domid", [DOM0, GUEST])

SOCKET_BYTES_MAX = 1 << 20
"""More than a socket holds that nobody reads."""

READ_BIG = Packet(XsMsgType.READ, 1, 0, b"/local/domain/5/big\0").encode()


def _eventually(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.002)


class Server:
    """The daemon, what it holds, and an other client of domain 0 that has to be answered all the time."""

    def __init__(self, daemon: Any) -> None:
        self._daemon = daemon
        daemon.call(lambda core: core.write("/local/domain/5/big", b"x" * 1900))
        daemon.call(lambda core: core.set_perms("/local/domain/5", ["n5"]))
        daemon.call(lambda core: core.mkdir("/shared"))
        daemon.call(lambda core: core.set_perms("/shared", ["r0"]))
        daemon.call(lambda core: core.set_perms("/local/domain/5/big", ["n5"]))
        self.other = Xenstore(daemon.path)
        self._values = itertools.count()
        self.answers_others()
        self.before = self.held()

    def held(self) -> dict[str, int]:
        """Everything that a client may leave behind: counts of the process, the shell and the core."""

        def count(core: Any) -> dict[str, int]:
            domains = [core.domains.get(domid) for domid in (DOM0, GUEST)]
            return {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "connections": len(self._daemon.server._connections),
                "sessions": sum(len(domain.sessions) for domain in domains),
                "watches": sum(domain.nr_watches for domain in domains),
                "watched paths": len(core.watches._by_path),
                "transactions": core.nr_transactions + sum(domain.nr_transactions for domain in domains),
                "outstanding": sum(domain.nr_outstanding for domain in domains),
            }

        found: dict[str, int] = self._daemon.call(count)
        return found

    def connect(self, domid: Domid) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a timeout, a queue of connections that is full would be an error instead of a wait.
        client.connect(self._daemon.path if domid == DOM0 else self._daemon.guest_path)
        client.settimeout(DEADLINE_S)
        return client

    def answers_others(self, output_bytes_max: int = OUTPUT_BYTES_MAX + MESSAGE_BYTES_MAX) -> None:
        """The other client is answered: the server has been round all its clients, and what they have is bounded."""
        value = str(next(self._values))
        self.other.write("/other", value)
        assert self.other.read("/other") == value
        for unserved, output, memory_bytes in self._daemon.call(self._buffers):
            assert unserved <= UNSERVED_BYTES_MAX
            assert output <= output_bytes_max
            assert memory_bytes is None or memory_bytes < Quotas().memory

    def _buffers(self, core: Any) -> list[tuple[int, int, int | None]]:
        return [
            (
                len(pickle.dumps(session._parser)),
                session._queued_bytes,
                None if domain.privileged else domain.memory_bytes,
            )
            for domain in core.domains
            for session in domain.sessions
        ]

    @contextlib.contextmanager
    def standing_still(self, trace: Trace) -> Iterator[None]:
        """The server does nothing meanwhile, then goes on with this trace."""
        stands, gate = threading.Event(), threading.Event()

        def stand(core: Any) -> None:
            core.trace = trace
            stands.set()
            assert gate.wait(DEADLINE_S)

        call = threading.Thread(target=self._daemon.call, args=(stand,))
        call.start()
        assert stands.wait(DEADLINE_S)
        try:
            yield
        finally:
            gate.set()
            call.join()

    def has_forgotten(self) -> None:
        """All that the greedy client had is free."""
        # No more than before: a descriptor of an earlier test may have gone meanwhile.
        _eventually(
            lambda: all(count <= self.before[name] for name, count in self.held().items()),
            f"{self.held()} is {self.before} again",
        )
        assert self._daemon.call(lambda core: core.tree.check()) == []

    def close(self) -> None:
        self.other.close()


@pytest.fixture
def server(daemon: Any) -> Iterator[Server]:
    server = Server(daemon)
    yield server
    server.has_forgotten()
    server.close()


def _push(server: Server, client: socket.socket, data: bytes, nr_times: int) -> int:
    """Send without reading, until all is sent or the server has taken no more for a while; how many bytes it took."""
    client.setblocking(False)
    sent, blocked, data = 0, 0, data * nr_times
    while sent < len(data) and blocked < 3:
        try:
            sent += client.send(data[sent : sent + (1 << 14)])
            blocked = 0
        except BlockingIOError:
            blocked += 1
        except ConnectionError:
            break
        server.answers_others()
    client.settimeout(DEADLINE_S)
    return sent


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_garbage(server: Server, domid: Domid, seed: int) -> None:
    """It is disconnected at the first length that is too large."""
    dice = random.Random(seed)
    with server.connect(domid) as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(dice.randbytes(5000))
                server.answers_others()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


@BOTH
def test_garbage_that_is_well_framed(server: Server, domid: Domid) -> None:
    """Requests that mean nothing are answered, however many."""
    dice = random.Random(1)
    with server.connect(domid) as client:
        parser, answered = PacketParser(), 0
        for _ in range(20):
            requests = [Packet(dice.randrange(100, 1 << 32), 1, 7, dice.randbytes(90)).encode() for _ in range(100)]
            client.sendall(b"".join(requests))
            server.answers_others()
            while answered % 100 or not answered:
                answered += len(list(parser.feed(client.recv(1 << 16))))
            answered = 0


@BOTH
@pytest.mark.parametrize("nr_bytes", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 2000])
def test_a_message_that_never_ends(server: Server, domid: Domid, nr_bytes: int) -> None:
    message = struct.pack("<IIII", XsMsgType.WRITE, 1, 0, PAYLOAD_BYTES_MAX) + bytes(PAYLOAD_BYTES_MAX)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(server.connect(domid)).sendall(message[:nr_bytes])
        for _ in range(20):
            server.answers_others()


@BOTH
def test_requests_without_reading_the_answers(server: Server, domid: Domid) -> None:
    with server.connect(domid) as client:
        sent = _push(server, client, READ_BIG, 1 << 15)
        assert sent < len(READ_BIG) << 15
        server.answers_others()


@BOTH
def test_events_without_reading_them(server: Server, domid: Domid) -> None:
    """What a guest does not read is kept within its quota, the rest is dropped; domain 0 is disconnected in the end."""
    limit = Quotas().memory if domid == GUEST else UNREAD_BYTES_MAX + MESSAGE_BYTES_MAX
    with server.connect(domid) as client:
        client.sendall(Packet(XsMsgType.WATCH, 1, 0, b"/shared\0" + b"t" * 4000 + b"\0").encode())
        assert client.recv(1)
        for i in range(24):
            for j in range(100):
                server.other.write(f"/shared/{i}/{j}", "x")
            server.answers_others(limit)
        received = 1
        with contextlib.suppress(TimeoutError):
            client.settimeout(0.2)
            while data := client.recv(1 << 20):
                received += len(data)
        assert (data == b"") == (domid == DOM0)
        assert received < limit + SOCKET_BYTES_MAX


def _watches(server: Server, client: socket.socket, nr_watches: int) -> list[bytes]:
    """Register so many, reading all the time; gives the replies' payloads."""
    requests = [Packet(XsMsgType.WATCH, i, 0, b"/local/domain/5/%d\0t\0" % i).encode() for i in range(nr_watches)]
    parser, replies = PacketParser(), []
    for i in range(0, nr_watches, 100):
        client.sendall(b"".join(requests[i : i + 100]))
        while len(replies) < i + 100:
            packets = parser.feed(client.recv(1 << 16))
            replies += [packet.payload for packet in packets if packet.type != XsMsgType.WATCH_EVENT]
        if i % 1000 == 0:
            server.answers_others()
    return replies


def test_10000_watches_of_a_guest(server: Server) -> None:
    with server.connect(GUEST) as client:
        replies = _watches(server, client, 10_000)
        assert replies == [b"OK\0"] * 129 + [b"E2BIG\0"] * 9871
        assert server.held()["watches"] == 129


def test_10000_watches_of_domain_0(server: Server) -> None:
    with server.connect(DOM0) as client:
        assert _watches(server, client, 10_000) == [b"OK\0"] * 10_000
        assert server.held()["watched paths"] == 10_000


class Order(Trace):
    """The types of the requests, in the order in which they are served."""

    def __init__(self) -> None:
        super().__init__()
        self.active = True
        self.kinds: list[int] = []

    def message(self, session: Any, direction: str, kind: int, payload: bytes) -> None:
        if direction == "IN":
            self.kinds.append(kind)


@BOTH
def test_60000_writes(server: Server, domid: Domid) -> None:
    """Each time that its socket is as full as it can be, a request that comes after it all is served soon."""
    write = Packet(XsMsgType.WRITE, 1, 0, b"/local/domain/5/big\0value").encode()
    read = Packet(XsMsgType.READ, 1, 0, b"/\0").encode()
    answer_bytes = len(Packet(XsMsgType.WRITE, 1, 0, b"OK\0").encode())
    rest = write * 60_000
    with server.connect(domid) as client, server.connect(DOM0) as other:
        # Until it is answered, the server may have to accept it first, which is a turn more.
        other.sendall(read)
        assert other.recv(64)
        while rest:
            order = Order()
            with server.standing_still(order):
                nr_bytes = client.send(rest[: 1 << 17], socket.MSG_DONTWAIT)
                other.sendall(read)
            assert other.recv(64)
            assert order.kinds.index(XsMsgType.READ) <= RECEIVE_BYTES // len(write) + 1
            # What is left of a message goes as well, so that there is an answer to everything.
            tail = -nr_bytes % len(write)
            client.sendall(rest[nr_bytes : nr_bytes + tail])
            rest = rest[nr_bytes + tail :]
            missing_bytes = (nr_bytes + tail) // len(write) * answer_bytes
            while missing_bytes:
                missing_bytes -= len(client.recv(min(missing_bytes, 1 << 16)))


@BOTH
def test_1000_connections_in_turn(server: Server, domid: Domid) -> None:
    """Each leaves a watch, a transaction and a request half sent."""
    watch = Packet(XsMsgType.WATCH, 1, 0, b"/local/domain/5\0t\0").encode()
    start = Packet(XsMsgType.TRANSACTION_START, 1, 0, b"\0").encode()
    for i in range(1000):
        with contextlib.suppress(ConnectionError), server.connect(domid) as client:
            client.sendall(watch + start + watch[:20])
        if i % 50 == 0:
            server.answers_others()


def test_many_idle_connections(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(server.connect(DOM0))
            if i % 20 == 0:
                server.answers_others()
        _eventually(lambda: server.held()["sessions"] == server.before["sessions"] + 200, "all are served")
        server.answers_others()
