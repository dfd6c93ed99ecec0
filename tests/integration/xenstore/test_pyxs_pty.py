"""pyxs over a device, which elsewhere is /dev/xen/xenbus: here a pseudo-terminal with our server behind it."""

import gc
import os
import select
import signal
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import pytest
import pyxs

T = TypeVar("T")

DEADLINE_S = 30.0


def _start(function: Callable[[], T]) -> "Future[T]":
    """Run in a thread that keeps nobody from ending: a pyxs that lost its connection waits for ever."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as e:
            answer.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return answer


def _all(*functions: Callable[[], T]) -> list[T]:
    """What the functions return that run at once, TimeoutError if that takes too long."""
    return [future.result(DEADLINE_S) for future in [_start(function) for function in functions]]


def _in_use() -> tuple[set[str], set[threading.Thread]]:
    """Descriptors and threads of this process."""
    return set(os.listdir("/proc/self/fd")), set(threading.enumerate())


class Bridge:
    """A terminal whose master side is one connection to a xenstore; `path` is where a client opens the other."""

    def __init__(self, socket_path: str) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(socket_path)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            readable = select.select([self._master, self._socket], [], [])[0]
            if self._master in readable:
                self._socket.sendall(os.read(self._master, 4096))
            if self._socket in readable:
                data = self._socket.recv(4096)
                if not data:
                    return
                while data:
                    data = data[os.write(self._master, data) :]

    def close(self) -> None:
        """End the thread and close what is open."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._socket.close()
        # A process that leads a session gets a terminal that it opens as its own, and SIGHUP when that goes.
        handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.close(self._slave)
        os.close(self._master)
        signal.signal(signal.SIGHUP, handler)


@pytest.fixture
def client(daemon: Any) -> Iterator[pyxs.Client]:
    """A client on a terminal; afterwards, no descriptor and no thread is left of either."""
    gc.collect()  # or what an earlier test left is closed meanwhile
    before = _in_use()
    bridge = Bridge(daemon.path)
    client = pyxs.Client(xen_bus_path=bridge.path)
    assert isinstance(client.router.connection, pyxs.connection.XenBusConnection)
    _all(client.connect)
    yield client
    _all(client.close)
    bridge.close()
    end_s = time.monotonic() + DEADLINE_S
    while _in_use() != before and time.monotonic() < end_s:
        time.sleep(0.005)
    assert _in_use() == before


def test_nodes(client: Any) -> None:
    def talk() -> None:
        client[b"/a/b"] = b"v"
        client.mkdir(b"/a/c")
        assert (client[b"/a/b"], client[b"/a/c"], client.list(b"/a")) == (b"v", b"", [b"b", b"c"])
        assert (client.exists(b"/a/b"), client.exists(b"/a/d")) == (True, False)
        client.delete(b"/a/b")
        assert client.list(b"/a") == [b"c"]
        with pytest.raises(pyxs.PyXSError, match="2, "):
            client.read(b"/a/b")
        assert client.read(b"/a/b", b"other") == b"other"

    _all(talk)


def test_permissions_and_domains(client: Any) -> None:
    def talk() -> None:
        client.mkdir(b"/a")
        assert client.get_perms(b"/a") == [b"n0"]
        client.set_perms(b"/a", [b"b0", b"r5", b"w5"])
        assert client.get_perms(b"/a") == [b"b0", b"r5", b"w5"]
        assert client.get_domain_path(5) == b"/local/domain/5"
        assert (client.is_domain_introduced(5), client.is_domain_introduced(6)) == (True, False)

    _all(talk)


@pytest.mark.parametrize("nr_bytes", [1, 100, 1024, 4000, 4090])
def test_long_values(client: Any, nr_bytes: int) -> None:
    """The terminal carries them in pieces."""

    def talk() -> None:
        for i in range(10):
            value = (b"%d" % i) * nr_bytes
            client[b"/a"] = value
            assert client[b"/a"] == value

    _all(talk)


def test_transactions(client: Any, daemon: Any) -> None:
    def talk() -> None:
        with pyxs.Client(daemon.path) as other:
            client.transaction()
            client[b"/a"] = b"1"
            assert not other.exists(b"/a")
            assert client.commit() is True
            assert other[b"/a"] == b"1"
            client.transaction()
            client[b"/a"] = b"2"
            client.rollback()
            assert client[b"/a"] == b"1"
            client.transaction()
            assert client[b"/a"] == b"1"
            other[b"/a"] = b"3"
            client[b"/a"] = b"4"
            assert client.commit() is False
            assert client[b"/a"] == b"3"

    _all(talk)


def test_threads(client: Any) -> None:
    """Four threads on one terminal: each gets the answers to its own questions."""

    def talk(name: bytes) -> None:
        for i in range(50):
            client[b"/" + name] = name * (i + 1)
            assert client[b"/" + name] == name * (i + 1)

    _all(*(partial(talk, name) for name in (b"one", b"two", b"three", b"four")))


def test_there_is_no_monitor(client: Any) -> None:
    with pytest.raises(pyxs.PyXSError, match="not supported"):
        client.monitor()
