"""The server with clients that break the rules or never read: each harms itself, the others are served."""

import contextlib
import os
import random
import socket
import stat
import struct
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.errors import PeerGoneError
from xenblk.xenstore.client import WatchEvent, Xenstore
from xenblk.xenstore.server import GUEST_CONNECTIONS_MAX
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType

DEADLINE_S = 30.0
BUFFERED_BYTES_MAX = 1 << 22
"""More than a socket's buffer and one piece that the server reads; the answers to it would be 800 MiB."""

READ_ROOT = Packet(XsMsgType.READ, 1, 0, b"/\0").encode()
ROOT = Packet(XsMsgType.READ, 1, 0, b"").encode()


def _connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(DEADLINE_S)
    client.connect(path)
    return client


def _until_closed(client: socket.socket) -> None:
    """Read what is left; TimeoutError if the server keeps the connection."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1 << 16):
            pass


def test_byte_by_byte_and_all_at_once(daemon: Any) -> None:
    with _connect(daemon.path) as client:
        for i in range(len(READ_ROOT)):
            client.sendall(READ_ROOT[i : i + 1])
        assert client.recv(4096) == ROOT
        client.sendall(READ_ROOT * 100)
        answers = b""
        while len(answers) < 100 * len(ROOT):
            answers += client.recv(4096)
        assert answers == ROOT * 100


@pytest.mark.parametrize("length", [4097, 0x80000000, 0xFFFFFFFF])
def test_a_message_too_long_ends_the_connection(daemon: Any, length: int) -> None:
    with Xenstore(daemon.path) as other, _connect(daemon.path) as client:
        client.sendall(struct.pack("<IIII", XsMsgType.WRITE, 1, 0, length))
        _until_closed(client)
        other.write("/a", "served")


@pytest.mark.parametrize("seed", range(10))
def test_garbage(daemon: Any, seed: int) -> None:
    """Bytes at random, and requests at random that are well framed, from a guest and from domain 0."""
    dice = random.Random(seed)
    with Xenstore(daemon.path) as other:
        for path in (daemon.path, daemon.guest_path):
            with _connect(path) as client:
                # Read as a length, four bytes at random are nearly always too many.
                client.sendall(dice.randbytes(200))
                _until_closed(client)
            with _connect(path) as client:
                for _ in range(200):
                    text = bytes(dice.choices(b"/@a0T\0nrwb\xff ", k=dice.randrange(20)))
                    client.sendall(Packet(dice.choice([*range(30), 128]), 1, dice.choice([0, 1, 9]), text).encode())
                client.sendall(Packet(XsMsgType.READ, 0xE0D, 0, b"").encode())
                parser, kinds = PacketParser(), []
                while 0xE0D not in kinds:
                    kinds += [packet.req_id for packet in parser.feed(client.recv(4096))]
                assert kinds.count(1) == 200
        other.write("/a", "served")


def test_half_messages(daemon: Any) -> None:
    whole = Packet(XsMsgType.WRITE, 1, 0, b"/half\0value").encode()
    with Xenstore(daemon.path) as other:
        for cut in range(len(whole)):
            with _connect(daemon.path) as client:
                client.sendall(whole[:cut])
        waiting = _connect(daemon.path)
        waiting.sendall(whole[:-1])
        other.write("/a", "served")
        assert not other.exists("/half")
        waiting.sendall(whole[-1:])
        assert waiting.recv(4096) == Packet(XsMsgType.WRITE, 1, 0, b"OK\0").encode()
        waiting.close()


def test_a_client_that_never_reads_is_read_no_further(daemon: Any) -> None:
    """It can say no more than fits in the sockets' buffers, although each answer is 200 times as long as its request;
    the others are served meanwhile, and once it reads, it gets every answer."""
    daemon.call(lambda core: core.write("/big", b"x" * 4000))
    request = Packet(XsMsgType.READ, 1, 0, b"/big\0").encode()
    with Xenstore(daemon.path) as other, _connect(daemon.path) as client:
        client.setblocking(False)
        sent, blocked = 0, 0
        while blocked < 5:
            try:
                sent += client.send(request * 50)
                blocked = 0
            except BlockingIOError:
                # An answer to somebody else says that the server has been round all its clients meanwhile.
                other.write("/a", "served")
                blocked += 1
            assert sent < BUFFERED_BYTES_MAX
        client.settimeout(DEADLINE_S)
        answers, parser = 0, PacketParser()
        while answers < sent // len(request):
            for packet in parser.feed(client.recv(1 << 16)):
                assert packet.payload == b"x" * 4000
                answers += 1


def test_a_watcher_that_never_reads(daemon: Any) -> None:
    with Xenstore(daemon.path) as other, _connect(daemon.path) as client:
        client.sendall(Packet(XsMsgType.WATCH, 1, 0, b"/w\0" + b"t" * 2000 + b"\0").encode())
        for i in range(2000):
            other.write("/w", str(i))
        client.sendall(READ_ROOT)
        parser, events, answered = PacketParser(), 0, False
        while not answered:
            for packet in parser.feed(client.recv(1 << 16)):
                events += packet.type == XsMsgType.WATCH_EVENT
                answered |= packet.type == XsMsgType.READ
        assert 1 < events < 2000


def test_a_client_that_goes_away_with_answers_waiting(daemon: Any) -> None:
    with Xenstore(daemon.path) as other:
        for _ in range(20):
            with _connect(daemon.path) as client:
                client.sendall(Packet(XsMsgType.WATCH, 1, 0, b"/\0t\0").encode() + READ_ROOT * 100)
            other.write("/a", "served")
    assert daemon.call(lambda core: core.read("/a")) == b"served"


def test_a_guest_cannot_use_up_the_descriptors(daemon: Any) -> None:
    """Those beyond the limit are turned away; there is room again when others leave, and domain 0 never lacks it."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connect(daemon.guest_path)) for _ in range(GUEST_CONNECTIONS_MAX)]
        for client in clients:
            client.sendall(READ_ROOT)
            assert client.recv(4096)
        with _connect(daemon.guest_path) as one_more:
            _until_closed(one_more)
        for _ in range(GUEST_CONNECTIONS_MAX + 1):
            stack.enter_context(Xenstore(daemon.path)).exists("/")
        clients[0].shutdown(socket.SHUT_RDWR)
        _until_closed(clients[0])
        with Xenstore(daemon.path) as other:
            other.exists("/")
        with _connect(daemon.guest_path) as successor:
            successor.sendall(READ_ROOT)
            assert successor.recv(4096)


# Sockets


def test_the_socket_is_private(daemon: Any) -> None:
    assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o600


def test_a_domain_that_is_released_is_disconnected(daemon: Any) -> None:
    with Xenstore(daemon.path) as store, Xenstore(daemon.guest_path) as guest:
        guest.watch("@releaseDomain", "t")
        store.watch("@releaseDomain", "t")
        assert store.next_event(DEADLINE_S) == guest.next_event(DEADLINE_S) == WatchEvent("@releaseDomain", "t")
        daemon.call(lambda core: core.release(Domid(5)))
        assert store.next_event(DEADLINE_S) == WatchEvent("@releaseDomain", "t")
        with pytest.raises(PeerGoneError):
            guest.next_event(DEADLINE_S)


def test_a_socket_that_is_removed_keeps_its_clients(daemon: Any) -> None:
    with Xenstore(daemon.guest_path) as guest:
        daemon.call(lambda _core: daemon.server.unlisten(daemon.guest_path))
        assert not os.path.exists(daemon.guest_path)
        with pytest.raises(PeerGoneError):
            Xenstore(daemon.guest_path)
        assert not guest.exists("/secret")


def test_a_path_in_use(daemon: Any) -> None:
    with pytest.raises(OSError, match="in use"):
        daemon.call(lambda _core: daemon.server.listen(daemon.path, Domid(0)))
