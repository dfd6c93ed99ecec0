"""A client of the store without a socket: requests in, what came back in order."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.wire import HEADER_BYTES, Packet, PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored


class Talker:
    """A session of domain `domid`. Each operation gives the reply's payload as bytes, or the name of an error as str;
    `log` keeps replies' types and events' (path, token) in the order in which they came."""

    def __init__(self, core: Xenstored, domid: int) -> None:
        self.session = core.connect(Domid(domid), lambda: None)
        self.log: list[XsMsgType | tuple[str, str]] = []
        self._parser = PacketParser()
        self._req_ids = itertools.count(1000)

    def take(self) -> list[Packet]:
        """All that the session has to send."""
        data = bytearray()
        while piece := self.session.output:
            self.session.consume(len(piece))
            data += piece
        packets = list(self._parser.feed(bytes(data)))
        for packet in packets:
            if packet.type == XsMsgType.WATCH_EVENT:
                assert (packet.req_id, packet.tx_id) == (0, 0)
                path, token, end = packet.payload.split(b"\0")
                assert end == b""
                self.log.append((path.decode(), token.decode()))
            else:
                self.log.append(XsMsgType(packet.type))
        return packets

    def events(self) -> list[tuple[str, str]]:
        """Events since the last call."""
        self.take()
        found = [entry for entry in self.log if isinstance(entry, tuple)]
        self.log.clear()
        return found

    def ask(self, kind: int, payload: bytes, tx: int = 0) -> bytes | str:
        """One request, one reply; the reply belongs to it."""
        request = Packet(kind, next(self._req_ids), tx, payload)
        self.session.feed(request.encode())
        (reply,) = [packet for packet in self.take() if packet.type != XsMsgType.WATCH_EVENT]
        assert (reply.req_id, reply.tx_id) == (request.req_id, tx)
        if reply.type == XsMsgType.ERROR:
            assert reply.payload.endswith(b"\0")
            return reply.payload[:-1].decode()
        assert reply.type == kind
        return reply.payload

    def read(self, path: str, tx: int = 0) -> bytes | str:
        return self.ask(XsMsgType.READ, f"{path}\0".encode(), tx)

    def write(self, path: str, value: bytes = b"", tx: int = 0) -> bytes | str:
        return self.ask(XsMsgType.WRITE, f"{path}\0".encode() + value, tx)

    def mkdir(self, path: str, tx: int = 0) -> bytes | str:
        return self.ask(XsMsgType.MKDIR, f"{path}\0".encode(), tx)

    def rm(self, path: str, tx: int = 0) -> bytes | str:
        return self.ask(XsMsgType.RM, f"{path}\0".encode(), tx)

    def ls(self, path: str, tx: int = 0) -> list[str] | str:
        answer = self.ask(XsMsgType.DIRECTORY, f"{path}\0".encode(), tx)
        return answer if isinstance(answer, str) else answer.decode().split("\0")[:-1]

    def perms(self, path: str, tx: int = 0) -> str:
        answer = self.ask(XsMsgType.GET_PERMS, f"{path}\0".encode(), tx)
        return answer if isinstance(answer, str) else answer.decode().replace("\0", " ").strip()

    def chmod(self, path: str, perms: str, tx: int = 0) -> bytes | str:
        texts = "".join(f"{perm}\0" for perm in perms.split())
        return self.ask(XsMsgType.SET_PERMS, f"{path}\0{texts}".encode(), tx)

    def watch(self, path: str, token: str) -> bytes | str:
        return self.ask(XsMsgType.WATCH, f"{path}\0{token}\0".encode())

    def unwatch(self, path: str, token: str) -> bytes | str:
        return self.ask(XsMsgType.UNWATCH, f"{path}\0{token}\0".encode())

    def start(self) -> int:
        answer = self.ask(XsMsgType.TRANSACTION_START, b"\0")
        assert isinstance(answer, bytes), answer
        assert answer.endswith(b"\0")
        return int(answer[:-1])

    def end(self, tx: int, how: bytes = b"T\0") -> bytes | str:
        return self.ask(XsMsgType.TRANSACTION_END, how, tx)

    def control(self, *words: str) -> bytes | str:
        return self.ask(XsMsgType.CONTROL, "".join(f"{word}\0" for word in words).encode())


@pytest.fixture
def core() -> Xenstored:
    """A fresh store that knows domains 5 and 7."""
    core = Xenstored()
    for domid in (5, 7):
        core.introduce(Domid(domid))
    return core


@pytest.fixture
def talk(core: Xenstored) -> Callable[[int], Talker]:
    """Makes a session of a domain."""
    return lambda domid: Talker(core, domid)


@pytest.fixture
def dom0(core: Xenstored) -> Talker:
    return Talker(core, 0)


@pytest.fixture
def guest(core: Xenstored) -> Talker:
    """Domain 5; its home /local/domain/5 is its own."""
    core.mkdir("/local/domain/5")
    core.set_perms("/local/domain/5", ["n5"])
    return Talker(core, 5)


@pytest.fixture
def limit(dom0: Talker) -> Callable[[str, int], None]:
    """Sets a quota by request."""

    def limit(name: str, value: int) -> None:
        assert dom0.control("quota", "set", name, str(value)) == b"OK\0"

    return limit


@pytest.fixture
def refused(core: Xenstored) -> Callable[[Callable[[], Any]], Any]:
    """Gives the answer to what is refused, which changes neither the tree nor any account."""

    def state() -> Any:
        accounts = [(d.domid, len(d.owned), d.memory_bytes, d.nr_watches, d.nr_transactions) for d in core.domains]
        return dict(core.tree._nodes), accounts, core.tree.check()

    def refused(request: Callable[[], Any]) -> Any:
        before = state()
        answer = request()
        assert state() == before
        return answer

    return refused


class LazyClient:
    """A session that reads only when it is told to."""

    def __init__(self, core: Xenstored, domid: int) -> None:
        self.changes = 0
        self.session = core.connect(Domid(domid), self._changed)
        self._parser = PacketParser()

    def _changed(self) -> None:
        self.changes += 1

    def send(self, kind: int, payload: bytes, tx: int = 0, times: int = 1) -> None:
        self.session.feed(Packet(kind, 1, tx, payload).encode() * times)

    def take(self, nr_messages: int = 1 << 30) -> list[tuple[str, bytes]]:
        """The next messages, whole, and what they have."""
        found: list[tuple[str, bytes]] = []
        while len(found) < nr_messages and (output := self.session.output):
            length = int.from_bytes(output[12:16], "little")
            (packet,) = self._parser.feed(output[: HEADER_BYTES + length])
            self.session.consume(HEADER_BYTES + length)
            found.append((XsMsgType(packet.type).name, packet.payload))
        return found

    def write(self, path: str, times: int = 1) -> None:
        self.send(XsMsgType.WRITE, f"{path}\0".encode(), times=times)

    def watch(self, path: str) -> None:
        self.send(XsMsgType.WATCH, f"{path}\0t\0".encode())
        self.take()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Xenstored:
    """/all may be written by everyone, and read."""
    core = Xenstored(clock=clock)
    for domid in (1, 2, 3):
        core.introduce(Domid(domid))
    core.mkdir("/all")
    core.set_perms("/all", ["b0"])
    return core


@pytest.fixture
def client(timed: Xenstored) -> Callable[[int], LazyClient]:
    return lambda domid: LazyClient(timed, domid)


@pytest.fixture
def pass_s(timed: Xenstored, clock: Clock) -> Callable[[float], None]:
    """Lets time pass; every session is served again whose turn it is then."""

    def pass_s(seconds: float) -> None:
        clock.now_s += seconds
        timed.tick()
        for domain in timed.domains:
            for session in domain.sessions:
                session.work()

    return pass_s
