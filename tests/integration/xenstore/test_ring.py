"""The rings of a domain's xenstore page, served by the real xenstored and by ours: the same bytes, the same limits."""

import contextlib
import mmap
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from oracle.daemon import RealXenstored, lacking
from oracle.ring_client import (
    CONNECTION,
    ERROR,
    REQ_CONS,
    REQ_PROD,
    RING_BYTES,
    RSP_CONS,
    RSP_PROD,
    SERVER_FEATURES,
    RingClient,
)

from xenblk.abi import Domid
from xenblk.xenstore.page import XenstorePage
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType

GUEST = 5
DEADLINE_S = 30.0
OK = b"OK\0"


class Doorbell:
    """One end of an event channel between the server and a test."""

    def __init__(self, own_fd: int, other_fd: int) -> None:
        self._own_fd, self._other_fd = own_fd, other_fd

    def fileno(self) -> int:
        return self._own_fd

    def wait(self, _timeout_s: float | None) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._own_fd)
        return True

    def notify(self) -> None:
        os.eventfd_write(self._other_fd, 1)

    def close(self) -> None:
        os.close(self._own_fd)


class World(Protocol):
    """A server with domain GUEST introduced."""

    ring: RingClient

    def socket(self) -> socket.socket:
        """Domain 0's."""

    def destroy(self) -> None:
        """The domain is gone."""


class Real:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._daemon = RealXenstored()
        stack.callback(self._daemon.close)
        self.ring = RingClient(self._daemon.create_domain(GUEST), lambda: self._daemon.notify(GUEST))
        stack.callback(self.ring.close)
        self._stack = stack
        with self.socket() as dom0:
            assert ask(dom0, XsMsgType.INTRODUCE, b"5\x001\x001\0").payload == OK

    def socket(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(DEADLINE_S)
        sock.connect(self._daemon.socket)
        return sock

    def destroy(self) -> None:
        self._daemon.destroy_domain(GUEST)


class Ours:
    def __init__(self, stack: contextlib.ExitStack, daemon: Any) -> None:
        self._daemon, self._stack = daemon, stack
        page = mmap.mmap(-1, mmap.PAGESIZE)
        server_fd, guest_fd = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        stack.callback(os.close, guest_fd)
        self.ring = RingClient(page, lambda: os.eventfd_write(server_fd, 1))
        stack.callback(self.ring.close)

        def connect(_core: Any) -> None:
            shared = XenstorePage(memoryview(page), server=True)
            daemon.server.connect_ring(Domid(GUEST), shared, Doorbell(server_fd, guest_fd))

        daemon.call(connect)
        stack.callback(daemon.call, lambda _core: daemon.server.disconnect_ring(Domid(GUEST)))

    def socket(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(DEADLINE_S)
        sock.connect(self._daemon.path)
        return sock

    def destroy(self) -> None:
        self._daemon.call(lambda core: core.release(Domid(GUEST)))


@pytest.fixture(params=["real", "ours"])
def world(request: pytest.FixtureRequest, daemon: Any, tmp_path: Path) -> Iterator[World]:
    if request.param == "real" and (reason := lacking()):
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield Real(stack) if request.param == "real" else Ours(stack, daemon)


@pytest.fixture
def dom0(world: World) -> socket.socket:
    return world.socket()


def read_packet(receive: Callable[[int], bytes]) -> Packet:
    parser = PacketParser()
    while (packet := parser.next()) is None:
        parser.feed(receive(parser.missing_bytes))
    return packet


def ask(sock: socket.socket, kind: int, payload: bytes) -> Packet:
    sock.sendall(Packet(kind, 9, 0, payload).encode())
    return read_packet(sock.recv)


def ask_ring(ring: RingClient, kind: int, payload: bytes, req_id: int = 1) -> Packet:
    ring.send(Packet(kind, req_id, 0, payload).encode())
    return read_packet(ring.receive)


def test_a_conversation(world: World, dom0: socket.socket) -> None:
    assert ask_ring(world.ring, XsMsgType.READ, b"/tool\0").payload == b"EACCES\0"
    for path, perms in ((b"/home", b"n5"), (b"/local/domain/5", b"n5")):
        assert ask(dom0, XsMsgType.MKDIR, path + b"\0").payload == OK
        assert ask(dom0, XsMsgType.SET_PERMS, path + b"\0" + perms + b"\0").payload == OK
    assert ask_ring(world.ring, XsMsgType.WRITE, b"a\0value", 7) == (XsMsgType.WRITE, 7, 0, OK)
    assert ask(dom0, XsMsgType.READ, b"/local/domain/5/a\0").payload == b"value"
    assert ask(dom0, XsMsgType.GET_PERMS, b"/local/domain/5/a\0").payload == b"n5\0"
    assert ask_ring(world.ring, XsMsgType.WATCH, b"/home\0t\0").payload == OK
    assert read_packet(world.ring.receive).payload == b"/home\0t\0"
    assert ask(dom0, XsMsgType.WRITE, b"/home/x\0" + b"v" * 2000).payload == OK
    assert read_packet(world.ring.receive) == (XsMsgType.WATCH_EVENT, 0, 0, b"/home/x\0t\0")


def test_messages_larger_than_the_ring(world: World, dom0: socket.socket) -> None:
    ask(dom0, XsMsgType.MKDIR, b"/big\0")
    ask(dom0, XsMsgType.SET_PERMS, b"/big\0n5\0")
    value = bytes(range(256)) * 7
    assert ask_ring(world.ring, XsMsgType.WRITE, b"/big\0" + value).payload == OK
    assert ask_ring(world.ring, XsMsgType.READ, b"/big\0").payload == value


@pytest.mark.parametrize("seed", range(3))
def test_any_pieces(world: World, seed: int) -> None:
    dice = random.Random(seed)
    request = Packet(XsMsgType.GET_DOMAIN_PATH, 3, 0, b"77\0").encode()
    for _ in range(50):
        rest = request
        while rest:
            size = dice.randrange(1, len(rest) + 1)
            world.ring.send(rest[:size])
            rest = rest[size:]
        assert read_packet(world.ring.receive) == (XsMsgType.GET_DOMAIN_PATH, 3, 0, b"/local/domain/77\0")


def test_indices_run_over(world: World) -> None:
    """Both sides empty at an index just below 2^32, as after four gigabytes."""
    for index in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
        world.ring.words[index] = (1 << 32) - 10
    for _ in range(200):
        assert ask_ring(world.ring, XsMsgType.GET_DOMAIN_PATH, b"1\0").payload == b"/local/domain/1\0"
    assert world.ring.words[REQ_PROD] < 1 << 16


@pytest.mark.parametrize("ahead", [RING_BYTES + 1, 2000, (1 << 32) - 1])
def test_xsa_38_an_index_too_far_ahead(world: World, dom0: socket.socket, ahead: int) -> None:
    world.ring.words[REQ_PROD] = (world.ring.words[REQ_CONS] + ahead) % (1 << 32)
    world.ring.notify()
    _await_error(world, 2)
    assert ask(dom0, XsMsgType.GET_DOMAIN_PATH, b"1\0").payload == b"/local/domain/1\0"


def test_xsa_38_a_full_ring_is_no_fault(world: World) -> None:
    request = Packet(XsMsgType.GET_DOMAIN_PATH, 3, 0, b"1\0").encode()
    whole = request * (RING_BYTES // len(request) + 1)
    world.ring.page[:RING_BYTES] = whole[:RING_BYTES]
    world.ring.words[REQ_PROD] = RING_BYTES
    world.ring.notify()
    for _ in range(RING_BYTES // len(request)):
        assert read_packet(world.ring.receive).payload == b"/local/domain/1\0"


def _await_error(world: World, code: int) -> None:
    with pytest.raises(TimeoutError):
        world.ring.receive(1, 0.2)
    assert world.ring.words[ERROR] == code


@pytest.mark.parametrize("length", [4097, 0x80000000, 0xFFFFFFFF])
def test_xsa_325_a_domain_that_broke_the_rules_dies_like_others(world: World, dom0: socket.socket, length: int) -> None:
    assert ask(dom0, XsMsgType.WATCH, b"@releaseDomain\0t\0").payload == OK
    assert read_packet(dom0.recv).type == XsMsgType.WATCH_EVENT
    world.ring.send(struct.pack("<IIII", XsMsgType.WRITE, 1, 0, length))
    _await_error(world, 3)
    world.ring.words[ERROR] = 0
    world.ring.send(b"x" * 100)
    assert ask(dom0, XsMsgType.IS_DOMAIN_INTRODUCED, b"5\0").payload == b"T\0"
    world.destroy()
    assert read_packet(dom0.recv).payload == b"@releaseDomain\0t\0"
    assert ask(dom0, XsMsgType.IS_DOMAIN_INTRODUCED, b"5\0").payload == b"F\0"


def test_a_domain_that_never_reads_is_served_no_further(world: World, dom0: socket.socket) -> None:
    """44 replies fill its ring, 20 requests are outstanding; the next 1024 bytes wait in the ring."""
    request = Packet(XsMsgType.READ, 1, 0, b"/\0").encode()
    reply_bytes = len(Packet(XsMsgType.ERROR, 1, 0, b"EACCES\0").encode())
    served = RING_BYTES // reply_bytes + 20
    data = request * (served + RING_BYTES // len(request))
    world.ring.send(data[: len(request) * served])
    rest = data[len(request) * served :]
    world.ring.send(rest)
    assert ask(dom0, XsMsgType.GET_DOMAIN_PATH, b"1\0").payload == b"/local/domain/1\0"
    waiting = world.ring.words[REQ_PROD] - world.ring.words[REQ_CONS]
    assert waiting == len(rest)
    for _ in range(served + len(rest) // len(request)):
        assert read_packet(world.ring.receive).payload == b"EACCES\0"


def test_introduced_again_means_begun_anew(world: World, dom0: socket.socket) -> None:
    assert ask_ring(world.ring, XsMsgType.WATCH, b"@x\0t\0").payload == OK
    read_packet(world.ring.receive)
    assert ask_ring(world.ring, XsMsgType.TRANSACTION_START, b"\0").payload == b"1\0"
    if isinstance(world, Ours):  # the real one would keep the half
        world.ring.send(b"half a mess")
        world._daemon.call(lambda _core: world._daemon.server.reset_ring(Domid(GUEST)))
    else:
        assert ask(dom0, XsMsgType.INTRODUCE, b"5\x001\x001\0").payload == OK
    assert [world.ring.words[index] for index in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD)] == [0] * 4
    assert ask_ring(world.ring, XsMsgType.WATCH, b"@x\0t\0").payload == OK
    assert read_packet(world.ring.receive).payload == b"@x\0t\0"
    assert ask_ring(world.ring, XsMsgType.UNWATCH, b"@x\0t\0").payload == OK


def test_a_domain_may_ask_for_a_new_beginning(daemon: Any) -> None:
    """The real one does not offer that; ours says so in its features."""
    with contextlib.ExitStack() as stack:
        world = Ours(stack, daemon)
        assert world.ring.words[SERVER_FEATURES] == 3
        ask_ring(world.ring, XsMsgType.WATCH, b"@x\0t\0")
        world.ring.send(b"half a mess")
        world.ring.words[CONNECTION] = 1
        world.ring.notify()
        while world.ring.words[CONNECTION]:
            world.ring.notify()
        assert world.ring.words[REQ_PROD] == 0
        assert ask_ring(world.ring, XsMsgType.UNWATCH, b"@x\0t\0").payload == b"ENOENT\0"
