"""pyxs, unchanged, with our server and the real daemon: transactions that meet, threads that share, and monitors."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pytest
import pyxs
from oracle.daemon import RealXenstored, lacking

T = TypeVar("T")

DEADLINE_S = 30.0
GUEST = 5


@pytest.fixture
def real_path() -> Iterator[str]:
    if lacking():
        pytest.skip(str(lacking()))
    real = RealXenstored()
    try:
        real.create_domain(GUEST).close()
        with pyxs.Client(real.socket) as client:
            client.introduce_domain(GUEST, 1, 1)
            client.mkdir(b"/local/domain/0")
        yield real.socket
    finally:
        real.close()


@pytest.fixture(params=["ours", "real"])
def path(request: pytest.FixtureRequest) -> str:
    """Domain 0's socket of a server that knows domain 5."""
    if request.param == "ours":
        return str(request.getfixturevalue("daemon").path)
    return str(request.getfixturevalue("real_path"))


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


def test_nodes(path: str) -> None:
    def talk() -> None:
        with pyxs.Client(path) as client:
            client[b"/a/b"] = b"v"
            assert (client[b"/a/b"], client.list(b"/a"), client.exists(b"/a/c")) == (b"v", [b"b"], False)
            client.set_perms(b"/a", [b"n0", b"r5"])
            assert client.get_perms(b"/a") == [b"n0", b"r5"]
            assert [*client.walk(b"/a")] == [(b"/a", b"", [b"b"]), (b"/a/b", b"v", [])]
            assert client.get_domain_path(5) == b"/local/domain/5"
            assert (client.is_domain_introduced(5), client.is_domain_introduced(6)) == (True, False)
            client.delete(b"/a")
            with pytest.raises(pyxs.PyXSError, match="2, "):
                client.read(b"/a")

    _all(talk)


def test_threads_that_share_a_client(path: str) -> None:
    """Four threads, one connection: each gets the answers to its own questions."""
    with pyxs.Client(path) as client:

        def talk(name: bytes) -> list[bytes]:
            for i in range(50):
                node, value = b"/" + name + b"/n%d" % i, name * (i + 1)
                client[node] = value
                assert client[node] == value
                client.set_perms(node, [b"n0", b"r%d" % i])
                assert client.get_perms(node) == [b"n0", b"r%d" % i]
            children: list[bytes] = client.list(b"/" + name)
            return children

        names = [b"one", b"two", b"three", b"four"]
        assert _all(*(partial(talk, name) for name in names)) == [[b"n%d" % i for i in range(50)]] * 4


def test_clients_that_conflict(path: str) -> None:
    """Four clients count to 25 each in one node; no increment is lost."""

    def start() -> None:
        with pyxs.Client(path) as client:
            client[b"/count"] = b"0"

    def count() -> None:
        with pyxs.Client(path) as client:
            for _ in range(25):
                while True:
                    client.transaction()
                    client[b"/count"] = b"%d" % (int(client[b"/count"]) + 1)
                    if client.commit():
                        break

    def read() -> bytes:
        with pyxs.Client(path) as client:
            value: bytes = client[b"/count"]
            return value

    _all(start)
    _all(count, count, count, count)
    assert _all(read) == [b"100"]


def test_a_conflict_is_seen(path: str) -> None:
    def talk() -> None:
        with pyxs.Client(path) as one, pyxs.Client(path) as other:
            one[b"/a"] = b"0"
            one.transaction()
            assert one[b"/a"] == b"0"
            other[b"/a"] = b"1"
            assert one[b"/a"] == b"0"
            one[b"/a"] = b"2"
            assert one.commit() is False
            assert one[b"/a"] == b"1"

    _all(talk)


def test_monitors_on_nested_paths(path: str) -> None:
    """Two monitors of one client; somebody else makes the changes."""
    seen = {
        b"outer": [b"/n", b"/n/a/b", b"/n/a/b/c", b"/n/x", b"/n/a", b"/n/a/b/d", b"/n"],
        b"inner": [b"/n/a/b", b"/n/a/b", b"/n/a/b/c", b"/n/a/b/d", b"/n/a/b"],
    }
    with pyxs.Client(path) as client, pyxs.Client(path) as writer:
        monitors = {b"outer": (client.monitor(), b"/n"), b"inner": (client.monitor(), b"/n/a/b")}

        def watch() -> None:
            for token, (monitor, watched) in monitors.items():
                monitor.watch(watched, token)

        def change() -> None:
            for node in (b"/n/a/b", b"/n/a/b/c", b"/n/x", b"/n/a"):
                writer[node] = b"v"
            writer.transaction()
            writer[b"/n/a/b/d"] = b"v"
            writer.commit()
            writer.delete(b"/n")

        def read(token: bytes) -> list[tuple[bytes, bytes]]:
            return [*islice(monitors[token][0].wait(), len(seen[token]))]

        _all(watch)
        _, *events = _all(change, *(partial(read, token) for token in monitors))
        assert events == [[(node, token) for node in nodes] for token, nodes in seen.items()]
        assert all(monitor.events.empty() for monitor, _watched in monitors.values())


def test_monitors_of_many_clients(path: str) -> None:
    """Four clients watch one tree while a fifth writes 50 times: each is told of each change, in order."""
    clients: list[Any] = [pyxs.Client(path) for _ in range(5)]
    ready = threading.Barrier(5)

    def watch(client: Any) -> list[bytes]:
        with client:
            monitor = client.monitor()
            monitor.watch(b"/w", b"token")
            ready.wait(DEADLINE_S)
            return [event_path for event_path, _token in islice(monitor.wait(), 51)]

    def write() -> list[bytes]:
        with clients[4] as client:
            ready.wait(DEADLINE_S)
            for i in range(50):
                client[b"/w/%d" % i] = b"v"
        return [b"/w", *(b"/w/%d" % i for i in range(50))]

    *watched, written = _all(*(partial(watch, client) for client in clients[:4]), write)
    assert watched == [written] * 4
