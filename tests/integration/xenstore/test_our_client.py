"""Our client: what it offers, and that it never hangs, whatever the server does."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from xenblk.errors import PeerError, PeerGoneError, UsageError, XenstoreError
from xenblk.xenstore.client import WatchEvent, Xenstore, XenstoreTransaction
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType

DEADLINE_S = 30.0
Behaviour = Callable[[socket.socket], None]
Impostor = Callable[[Behaviour], str]


def _until_eof(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _request(connection: socket.socket) -> Packet:
    parser = PacketParser()
    while True:
        for packet in parser.feed(connection.recv(4096)):
            return packet


def test_operations(daemon: Any) -> None:
    with Xenstore(daemon.path) as store:
        store.write("/a/b", "v")
        store.mkdir("/a/c")
        assert (store.read("/a/b"), store.read("/a/x", "none"), store.directory("/a")) == ("v", "none", ["b", "c"])
        assert (store.exists("/a"), store.exists("/x")) == (True, False)
        store.set_perms("/a", ["n0", "r5"])
        assert store.get_perms("/a") == ["n0", "r5"]
        store.prune("/a/b")
        assert store.directory("/a") == ["c"]
        store.prune("/a/c")
        store.prune("/a/c")
        assert not store.exists("/a")
        store.write("/a/b/c/d", "v")
        store.prune("/a/b/c/d", 2)
        assert store.directory("/a") == []
        store.mkdir("/a/b/c/d")
        store.mkdir("/a/x")
        store.prune("/a/b/c/d", 3)
        assert store.directory("/a") == ["x"]
        store.rm("/a")
        with pytest.raises(XenstoreError, match="ENOENT to read /a/b") as refused:
            store.read("/a/b")
        assert refused.value.name == "ENOENT"
        for value in ("", "ä", "two\nlines"):
            with pytest.raises(UsageError, match="printable ASCII"):
                store.write("/a", value)
        for path in ("", "/a/", "/a b"):
            with pytest.raises(XenstoreError, match="EINVAL"):
                store.read(path)


def test_transactions_are_tried_again(daemon: Any) -> None:
    with Xenstore(daemon.path) as store, Xenstore(daemon.path) as other:
        store.write("/n", "0")
        tries = 0

        def add(transaction: XenstoreTransaction) -> int:
            nonlocal tries
            tries += 1
            value = int(transaction.read("/n"))
            if tries < 3:
                other.write("/n", str(10 * tries))
            transaction.write("/n", str(value + 1))
            return value

        assert (store.transact(add), store.read("/n"), tries) == (20, "21", 3)


def test_a_transaction_that_fails_changes_nothing(daemon: Any) -> None:
    def fail(transaction: XenstoreTransaction) -> None:
        transaction.write("/n", "1")
        raise LookupError("on purpose")

    with Xenstore(daemon.path) as store:
        with pytest.raises(LookupError, match="on purpose"):
            store.transact(fail)
        assert not store.exists("/n")


def test_regression_a_transaction_in_which_a_tree_went_away(daemon: Any) -> None:
    """What it has read of the tree is no longer so, and rm says EIO: then it is tried again."""
    with Xenstore(daemon.path) as store, Xenstore(daemon.path) as other:
        store.write("/tree/a/b", "1")
        attempts: list[str] = []

        def remove(transaction: XenstoreTransaction) -> None:
            attempts.append(",".join(transaction.directory("/tree")))
            if len(attempts) == 1:
                other.rm("/tree/a")
            transaction.rm("/tree")

        store.transact(remove)
        assert attempts == ["a", ""]
        assert not store.exists("/tree")


def test_a_transaction_gives_up(daemon: Any) -> None:
    with Xenstore(daemon.path) as store, Xenstore(daemon.path) as other:

        def lose(transaction: XenstoreTransaction) -> None:
            transaction.exists("/n")
            other.write("/n", "1")
            other.rm("/n")

        with pytest.raises(XenstoreError, match="EAGAIN to a transaction, 100 times"):
            store.transact(lose)


def test_watches(daemon: Any) -> None:
    with Xenstore(daemon.path) as store:
        store.watch("/w", "t")
        assert store.next_event(DEADLINE_S) == WatchEvent("/w", "t")
        assert store.next_event(0.0) is None
        store.write("/w/x", "1")
        assert store.next_event(DEADLINE_S) == WatchEvent("/w/x", "t")
        with pytest.raises(UsageError, match="'t' is in use"):
            store.watch("/v", "t")
        store.write("/w/y", "1")
        store.unwatch("/w", "t")
        assert store.next_event(0.0) is None
        store.watch("/w", "t")
        assert store.next_event(DEADLINE_S) == WatchEvent("/w", "t")


def test_a_watch_that_is_refused_leaves_nothing(daemon: Any) -> None:
    with Xenstore(daemon.path) as store:
        with pytest.raises(XenstoreError, match="EINVAL"):
            store.watch("/w//", "t")
        store.watch("/w", "t")
        assert store.next_event(DEADLINE_S) == WatchEvent("/w", "t")
        assert store.next_event(0.0) is None


def test_a_directory_too_long_to_be_listed_exists(daemon: Any) -> None:
    daemon.call(lambda core: [core.mkdir(f"/big/a-rather-long-name-{i}") for i in range(300)])
    with Xenstore(daemon.path) as store:
        with pytest.raises(XenstoreError, match="E2BIG"):
            store.directory("/big")
        assert store.exists("/big")


def test_events_that_are_dropped_do_not_prolong_the_wait(daemon: Any) -> None:
    """Somebody keeps on changing what is no longer watched."""
    done = threading.Event()

    def change() -> int:
        changes = 0
        with Xenstore(daemon.path) as other:
            while not done.is_set() and changes < 100_000:
                other.write("/w", "1")
                changes += 1
        return changes

    with Xenstore(daemon.path) as store, ThreadPoolExecutor(1) as pool:
        store.watch("/w", "t")
        store.watch("/v", "kept")
        # As it is between the caller's unwatch and the server's: events are on their way, their token is forgotten.
        store._tokens.discard("t")
        changing = pool.submit(change)
        while (event := store.next_event(0.05)) is not None:
            assert event == WatchEvent("/v", "kept")
        done.set()
        assert changing.result(DEADLINE_S) < 100_000


def test_a_guest(daemon: Any) -> None:
    with Xenstore(daemon.path) as store, Xenstore(daemon.guest_path) as guest:
        store.write("/secret", "v")
        with pytest.raises(XenstoreError, match="EACCES"):
            guest.read("/secret")
        assert not guest.exists("/secret")


# Servers that fail


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(PeerGoneError, match="no xenstore answers at"):
        Xenstore(str(tmp_path / "nothing"))


def test_the_server_dies_in_mid_call(impostor: Impostor) -> None:
    with Xenstore(impostor(lambda connection: connection.recv(16) and None), deadline_s=DEADLINE_S) as store:
        with pytest.raises(PeerGoneError, match="is lost"):
            store.read("/a")
        for _ in range(2):
            with pytest.raises(PeerGoneError, match="is lost"):
                store.next_event(DEADLINE_S)
            with pytest.raises(PeerGoneError, match="is lost"):
                store.write("/a", "v")


def test_every_thread_hears_that_the_server_died(impostor: Impostor) -> None:
    die = threading.Event()

    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        die.wait(DEADLINE_S)

    with Xenstore(impostor(behave), deadline_s=DEADLINE_S) as store, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(store.read, f"/{i}") for i in range(3)]
        waiting.append(pool.submit(store.next_event, None))
        die.set()
        for future in waiting:
            assert isinstance(future.exception(DEADLINE_S), PeerGoneError)


def test_the_daemon_stops(daemon: Any) -> None:
    with Xenstore(daemon.path) as store:
        store.write("/a", "v")
        daemon.stop()
        with pytest.raises(PeerGoneError):
            store.next_event(DEADLINE_S)
        with pytest.raises(PeerGoneError):
            store.transact(lambda transaction: transaction.read("/a"))


def test_a_server_that_never_answers(impostor: Impostor) -> None:
    with Xenstore(impostor(_until_eof), deadline_s=0.05) as store:
        for _ in range(2):
            with pytest.raises(XenstoreError, match="ETIMEDOUT to read /a"):
                store.read("/a")
        assert store.next_event(0.0) is None


def test_an_answer_that_comes_late_harms_nobody(impostor: Impostor) -> None:
    late = threading.Event()

    def behave(connection: socket.socket) -> None:
        first = _request(connection)
        late.wait(DEADLINE_S)
        connection.sendall(Packet(first.type, first.req_id, 0, b"late").encode())
        second = _request(connection)
        connection.sendall(Packet(second.type, second.req_id, 0, b"in time").encode())
        _until_eof(connection)

    with Xenstore(impostor(behave), deadline_s=1.0) as store:
        with pytest.raises(XenstoreError, match="ETIMEDOUT"):
            store.read("/a")
        late.set()
        assert store.read("/b") == "in time"


def test_a_server_that_reads_nothing(impostor: Impostor) -> None:
    done = threading.Event()
    with Xenstore(impostor(lambda _connection: done.wait(DEADLINE_S) and None), deadline_s=0.1) as store:
        with ThreadPoolExecutor(100) as pool:
            waiting = [pool.submit(store.write, "/a", "x" * 4000) for _ in range(100)]
            failures = [future.exception(DEADLINE_S) for future in waiting]
        assert {type(failure) for failure in failures} <= {XenstoreError, PeerGoneError}
        assert PeerGoneError in {type(failure) for failure in failures}
        done.set()


def _header(kind: int, length: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in (kind, 0xDEAD, 0, length))


@pytest.mark.parametrize(
    "answer",
    [
        Packet(XsMsgType.READ, 0xDEADBEEF, 0, b"v").encode(),
        Packet(XsMsgType.RESET_WATCHES, 0xDEAD, 0, b"OK\0").encode(),
        Packet(XsMsgType.WATCH_EVENT, 0, 0, b"/one string\0").encode(),
        Packet(XsMsgType.WATCH_EVENT, 0, 0, b"").encode(),
        _header(XsMsgType.READ, 4097) + b"x" * 4097,
        _header(XsMsgType.READ, 10)[:7],
        _header(XsMsgType.READ, 10) + b"half",
    ],
    ids=["unknown request", "unknown type", "one string", "no string", "too long", "half a header", "half a message"],
)
def test_an_answer_that_makes_no_sense(impostor: Impostor, answer: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        _request(connection)
        connection.sendall(answer)
        _until_eof(connection)

    with Xenstore(impostor(behave), deadline_s=0.2) as store:
        with pytest.raises((PeerError, XenstoreError)) as failure:
            store.read("/a")
        assert isinstance(failure.value, PeerGoneError) or "ETIMEDOUT" in str(failure.value)
        with pytest.raises(PeerGoneError):
            store.next_event(DEADLINE_S)


def test_closed_at_half_a_message_at_once(impostor: Impostor) -> None:
    """Closing does not wait for the rest: the deadline here is longer than the test may take."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(_header(XsMsgType.READ, 10))
        _until_eof(connection)

    store = Xenstore(impostor(behave), deadline_s=1000.0)
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    store.close()
    with pytest.raises(PeerGoneError):
        store.read("/a")
