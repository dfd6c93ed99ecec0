"""libxenstore, Xen's own client library, with our server and the real daemon: every call has a deadline."""

import pickle
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import pyxs
from oracle.daemon import RealXenstored, environment, lacking

from xenblk.abi import Domid

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

DEADLINE_S: Final = 30.0
NONE, READ, WRITE = 0, 1, 2
"""What struct xs_permissions has as perms."""


class Handle:
    """libxenstore in a process of its own: what is called here is called there, see libxenstore.py."""

    def __init__(self, socket_path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("libxenstore.py")],
            env={**environment(), "XENSTORED_PATH": socket_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.start(name, *arguments)
            return self.answer()

        return call

    def start(self, name: str, *arguments: Any) -> None:
        """Call; the answer is fetched later."""
        assert self._process.stdin is not None
        pickle.dump((name, arguments), self._process.stdin)
        self._process.stdin.flush()

    def has_answer(self, timeout_s: float) -> bool:
        """Whether the call has returned."""
        return bool(select.select([self._process.stdout], [], [], timeout_s)[0])

    def answer(self) -> Any:
        """What the call returned."""
        assert self._process.stdout is not None
        assert self.has_answer(DEADLINE_S), "libxenstore did not return"
        return pickle.load(self._process.stdout)

    def end(self) -> int:
        """Close the handle; the exit status of its process."""
        self.close()
        return self._process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def real_path() -> Iterator[str]:
    real = RealXenstored()
    try:
        with pyxs.Client(real.socket) as client:
            for domid in (5, 6):
                real.create_domain(domid).close()
                client.introduce_domain(domid, 1, 1)
        yield real.socket
    finally:
        real.close()


@pytest.fixture(params=["ours", "real"])
def path(request: pytest.FixtureRequest) -> str:
    """Domain 0's socket of a server that knows domains 5 and 6."""
    if request.param == "real":
        return str(request.getfixturevalue("real_path"))
    daemon = request.getfixturevalue("daemon")
    daemon.call(lambda core: core.introduce(Domid(6)))
    return str(daemon.path)


@pytest.fixture
def connect(path: str) -> Iterator[Callable[[], Any]]:
    """Opens one more handle."""
    with ExitStack() as stack:

        def connect() -> Handle:
            handle = Handle(path)
            stack.callback(handle.kill)
            return handle

        yield connect


@pytest.fixture
def xs(connect: Callable[[], Any]) -> Any:
    return connect()


# Nodes


@pytest.mark.parametrize("value", [b"v", b"", bytes(range(256)), b"\0", b"\0" * 100, b"\n", b"x" * 4000])
def test_values(xs: Any, value: bytes) -> None:
    assert xs.write(b"/a/b", value) is True
    assert xs.read(b"/a/b") == value
    assert xs.write(b"/a/b", b"short") is True
    assert xs.read(b"/a/b") == b"short"


def test_nodes(xs: Any) -> None:
    assert xs.mkdir(b"/a/b") is True
    assert xs.mkdir(b"/a/b") is True
    assert (xs.read(b"/a"), xs.read(b"/a/b")) == (b"", b"")
    assert xs.directory(b"/a") == [b"b"]
    assert xs.directory(b"/a/b") == []
    assert xs.write(b"/a/c", b"v") is True
    assert xs.directory(b"/a") == [b"b", b"c"]
    assert xs.rm(b"/a/b") is True
    assert xs.rm(b"/a/b") is True
    assert xs.directory(b"/a") == [b"c"]
    assert xs.rm(b"/a") is True
    assert xs.directory(b"/a") == "ENOENT"
    assert xs.write(b"relative", b"v") is True
    assert xs.read(b"/local/domain/0/relative") == b"v"


def test_a_directory_in_parts(connect: Callable[[], Any]) -> None:
    """Its names are too long for one message; children come and go."""
    xs, other = connect(), connect()
    names = [b"name-%d-%s" % (i, b"n" * 100) for i in range(200)]
    for name in names:
        assert xs.mkdir(b"/big/" + name) is True
    assert xs.directory(b"/big") == names
    tx = xs.transaction_start()
    assert other.rm(b"/big/" + names[7]) is True
    assert xs.directory(b"/big", tx) == names[:7] + names[8:]
    assert other.mkdir(b"/big/new") is True
    assert xs.directory(b"/big", tx) == names[:7] + names[8:]
    assert xs.mkdir(b"/big/own", tx) is True
    assert xs.directory(b"/big", tx) == [*names[:7], *names[8:], b"own"]
    assert xs.directory(b"/big") == [*names[:7], *names[8:], b"new"]


@pytest.mark.parametrize("node", [b"/a b", b"/a/", b"//a", b"", b"/a//b", b"@x", b"/\xff", b"/" + b"p" * 3072])
def test_bad_paths(xs: Any, node: bytes) -> None:
    assert xs.write(b"/a", b"v") is True
    for call in (xs.read, xs.mkdir, xs.rm, xs.directory, xs.get_permissions):
        assert call(node) == "EINVAL"
    assert xs.write(node, b"v") == "EINVAL"
    assert xs.read(b"/a") == b"v"


def test_failures(xs: Any) -> None:
    assert xs.rm(b"/") == "EINVAL"
    assert xs.read(b"/nothing") == "ENOENT"
    assert xs.directory(b"/nothing") == "ENOENT"
    assert xs.rm(b"/nothing") is True
    assert xs.rm(b"/nothing/at/all") == "ENOENT"
    assert xs.get_permissions(b"/nothing") == "ENOENT"
    assert xs.set_permissions(b"/nothing", [(0, NONE)]) == "ENOENT"
    assert xs.write(b"/a", b"x" * 5000) == "E2BIG"
    assert xs.write(b"/a", b"v") is True
    assert xs.read(b"/a", 99) == "ENOENT"
    assert xs.write(b"/a", b"w", 99) == "ENOENT"
    assert xs.transaction_end(99) == "ENOENT"
    assert xs.unwatch(b"/a", b"token") == "ENOENT"
    assert xs.read(b"/a") == b"v"


def test_permissions(xs: Any) -> None:
    assert xs.mkdir(b"/a/b") is True
    assert xs.get_permissions(b"/a") == [(0, NONE)]
    for perms in ([(0, READ)], [(5, WRITE), (0, READ)], [(0, NONE), (5, READ | WRITE), (6, READ), (5, NONE)]):
        assert xs.set_permissions(b"/a", perms) is True
        assert xs.get_permissions(b"/a") == perms
    assert xs.set_permissions(b"/a", [(5, READ)]) is True
    assert xs.mkdir(b"/a/c") is True
    assert xs.get_permissions(b"/a/c") == [(5, READ)]
    assert xs.set_permissions(b"/a", [(9, READ)]) == "ENOENT"
    assert xs.set_permissions(b"/a", []) == "EINVAL"
    assert xs.get_permissions(b"/a") == [(5, READ)]
    assert xs.set_permissions(b"@releaseDomain", [(0, NONE), (5, READ)]) is True
    assert xs.set_permissions(b"@releaseDomain", [(9, NONE)]) == "ENOENT"


# Transactions


def test_transactions(connect: Callable[[], Any]) -> None:
    xs, other = connect(), connect()
    tx = xs.transaction_start()
    assert xs.write(b"/a", b"1", tx) is True
    assert (xs.read(b"/a", tx), xs.read(b"/a"), other.read(b"/a")) == (b"1", "ENOENT", "ENOENT")
    assert xs.transaction_end(tx) is True
    assert other.read(b"/a") == b"1"
    assert xs.read(b"/a", tx) == "ENOENT"
    tx = xs.transaction_start()
    assert xs.rm(b"/a", tx) is True
    assert xs.transaction_end(tx, True) is True
    assert other.read(b"/a") == b"1"


def test_a_conflict(connect: Callable[[], Any]) -> None:
    xs, other = connect(), connect()
    assert xs.write(b"/a", b"0") is True
    tx = xs.transaction_start()
    assert xs.read(b"/a", tx) == b"0"
    assert other.write(b"/a", b"1") is True
    assert xs.read(b"/a", tx) == b"0"
    assert xs.write(b"/a", b"2", tx) is True
    assert xs.transaction_end(tx) == "EAGAIN"
    assert xs.read(b"/a") == b"1"


def test_transactions_side_by_side(xs: Any) -> None:
    one, two = xs.transaction_start(), xs.transaction_start()
    assert one != two
    assert xs.write(b"/one", b"1", one) is True
    assert xs.write(b"/two/x", b"2", two) is True
    assert xs.transaction_end(two) is True
    assert xs.directory(b"/two") == [b"x"]
    assert xs.transaction_end(one) == "EAGAIN", "both made a child of /"


# Watches


def test_watches(connect: Callable[[], Any]) -> None:
    xs, other = connect(), connect()
    assert xs.watch(b"/w", b"token") is True
    assert xs.read_watch() == [b"/w", b"token"]
    assert xs.check_watch() == "EAGAIN"
    assert xs.readable(0.0) is False
    assert other.write(b"/w/x", b"v") is True
    assert xs.readable(DEADLINE_S) is True
    assert xs.check_watch() == [b"/w/x", b"token"]
    assert xs.watch(b"/w", b"token") == "EEXIST"
    assert xs.unwatch(b"/w", b"other") == "ENOENT"
    assert xs.unwatch(b"/w", b"token") is True
    assert other.write(b"/w/x", b"w") is True
    assert xs.read(b"/w/x") == b"w"
    assert xs.check_watch() == "EAGAIN"
    assert xs.unwatch(b"/w", b"token") == "ENOENT"


def test_bad_watches(xs: Any) -> None:
    for node in (b"/a b", b"/a/", b""):
        assert xs.watch(node, b"token") == "EINVAL"
    assert xs.watch(b"@releaseDomain", b"") is True
    assert xs.read_watch() == [b"@releaseDomain", b""]


def test_read_watch_waits(connect: Callable[[], Any]) -> None:
    xs, other = connect(), connect()
    assert xs.watch(b"relative", b"r") is True
    assert xs.read_watch() == [b"relative", b"r"]
    xs.start("read_watch")
    assert not xs.has_answer(0.05)
    assert other.write(b"/elsewhere", b"v") is True
    assert other.write(b"/local/domain/0/relative/x", b"v") is True
    assert xs.answer() == [b"relative/x", b"r"]


def test_events_of_a_transaction(connect: Callable[[], Any]) -> None:
    """They come when it is committed, none if it is not."""
    xs, other = connect(), connect()
    assert xs.watch(b"/w", b"t") is True
    assert xs.read_watch() == [b"/w", b"t"]
    for abort in (True, False):
        tx = other.transaction_start()
        assert other.write(b"/w/x", b"v", tx) is True
        assert other.mkdir(b"/w/y", tx) is True
        assert xs.check_watch() == "EAGAIN"
        assert other.transaction_end(tx, abort) is True
    assert [xs.read_watch() for _ in range(2)] == [[b"/w/x", b"t"], [b"/w/y", b"t"]]
    assert xs.check_watch() == "EAGAIN"


def test_own_events_come_between_answers(xs: Any) -> None:
    """200 events of the handle's own writes, none lost, all in order."""
    assert xs.watch(b"/w", b"t") is True
    nodes = [b"/w/%d" % i for i in range(200)]
    for node in nodes:
        assert xs.write(node, b"v") is True
    assert [xs.read_watch()[0] for _ in range(201)] == [b"/w", *nodes]


def test_close(connect: Callable[[], Any]) -> None:
    """With a transaction open and events unread."""
    xs, other = connect(), connect()
    assert xs.watch(b"/w", b"t") is True
    assert xs.write(b"/w/x", b"v", xs.transaction_start()) is True
    assert other.write(b"/w", b"v") is True
    assert xs.end() == 0
    assert other.directory(b"/w") == []
    assert other.end() == 0


# Domains


def test_domains(xs: Any) -> None:
    assert xs.get_domain_path(0) == b"/local/domain/0"
    assert xs.get_domain_path(9) == b"/local/domain/9"
    assert [xs.is_domain_introduced(domid) for domid in (0, 5, 6, 9, 0x7FF0)] == [True, True, True, False, True]
    assert xs.introduce_domain(9, 1, 0) == "EINVAL"
    assert xs.introduce_domain(9, 1, 1) == "EINVAL"
    assert xs.is_domain_introduced(9) is False
    assert xs.resume_domain(5) is True
    assert xs.resume_domain(9) == "ENOENT"
    assert xs.set_target(5, 6) is True
    assert xs.set_target(5, 9) == "ENOENT"
    assert xs.set_target(9, 5) == "ENOENT"


def test_release(connect: Callable[[], Any]) -> None:
    xs, other = connect(), connect()
    assert other.watch(b"@releaseDomain", b"gone") is True
    assert other.read_watch() == [b"@releaseDomain", b"gone"]
    assert xs.release_domain(0) == "EINVAL"
    assert xs.release_domain(9) == "ENOENT"
    assert other.check_watch() == "EAGAIN"
    assert xs.release_domain(5) is True
    assert other.read_watch() == [b"@releaseDomain", b"gone"]
    assert (xs.is_domain_introduced(5), xs.is_domain_introduced(6)) == (False, True)
    assert xs.release_domain(5) == "ENOENT"


def test_control(xs: Any) -> None:
    assert xs.control_command(b"check", b"") == b"OK"
    assert xs.control_command(b"print", b"word\0") == b"OK"
    assert xs.control_command(b"nothing", b"") == "EINVAL"
