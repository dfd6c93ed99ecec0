"""A xenstore client that cannot hang: pyxs, with a deadline on every answer and a word when the connection is lost.

pyxs waits for an answer for as long as it takes, and its router thread takes outstanding calls with it when it dies.
Both are mended in one place, by a router of our own that pyxs accepts: its answers have deadlines, and when its thread
ends, for whatever reason, every outstanding call is answered with ECONNRESET. Its socket has the deadline, too, so that
neither a server that reads nothing nor one that stops in the middle of a message holds anyone for longer; and it is
closed in any case, where pyxs leaves it open when connecting or shutting down fails.

Two more limits of pyxs 0.4.1 are its callers' business: a value has at least one printable ASCII character, and reading
drops trailing NULs.
"""

import contextlib
import copy
import dataclasses
import errno
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import pyxs
from pyxs._internal import NUL, Event, Op, Packet
from pyxs.client import Router, RVar
from pyxs.connection import UnixSocketConnection

from xenblk.errors import PeerGoneError, UsageError, XenblkError, XenstoreError

T = TypeVar("T")

TRANSACTION_ATTEMPTS: Final = 100
"""How often a transaction is tried again on EAGAIN, as Xen's own test-xenstore does it."""

_LOST: Final = Event(b"", b"")


class _Events(queue.Queue[Any]):
    """Events that wait to be taken, at most one of each token in `single`."""

    def __init__(self) -> None:
        super().__init__()
        self.single: set[bytes] = set()
        self._waiting: set[bytes] = set()

    # queue.Queue calls these with its lock held.

    def _put(self, item: Any) -> None:
        if item.token in self._waiting:
            return
        if item.token in self.single:
            self._waiting.add(item.token)
        super()._put(item)

    def _get(self) -> Any:
        item = super()._get()
        self._waiting.discard(item.token)
        return item


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent:
    """Something changed at `path`, which the watch with `token` looks at."""

    path: str
    token: str


def _dial(path: str, deadline_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(deadline_s)
    try:
        sock.connect(path)
    except OSError as e:
        sock.close()
        raise pyxs.ConnectionError(e.strerror or str(e)) from None
    return sock


class _Transport:
    """A connected socket as pyxs wants one. Raises OSError; TimeoutError is one."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._socket = sock
        self._socket.settimeout(deadline_s)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def recv(self, nr_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < nr_bytes:
            piece = self._socket.recv(nr_bytes - len(data))
            if not piece:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            data += piece
        return bytes(data)

    def shut_down(self) -> None:
        """Wake the router's thread, which then closes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut_down()
        self._socket.close()


class _Connection(UnixSocketConnection):  # type: ignore[misc]
    """pyxs's connection over a socket that has a deadline and is always closed."""

    def __init__(self, path: str, deadline_s: float, sock: socket.socket | None) -> None:
        super().__init__(path)
        self.deadline_s = deadline_s
        self.sock = sock

    def create_transport(self) -> _Transport:
        return _Transport(self.sock or _dial(self.path, self.deadline_s), self.deadline_s)

    def send(self, packet: Packet) -> None:
        # The router's thread may close the transport meanwhile, and it alone does: a socket that is closed in here
        # could be another one by the time that thread waits for it.
        transport = self.transport
        if transport is None:
            raise pyxs.ConnectionError("not connected")
        try:
            transport.send(Packet._struct.pack(*packet[:4]) + packet.payload)
        except OSError as e:
            raise pyxs.ConnectionError(e.strerror or str(e)) from None

    def shut_down(self) -> None:
        """Let both ends know that this is over."""
        transport = self.transport
        if transport is not None:
            transport.shut_down()


class _Answer(RVar):  # type: ignore[misc]
    """An answer to come, for at most `deadline_s`."""

    __slots__ = ("deadline_s", "request")

    def get(self) -> Any:
        with self.condition:
            if not self.condition.wait_for(lambda: self.target is not None, self.deadline_s):
                return Packet(Op.ERROR, b"ETIMEDOUT\0", self.request.rq_id, self.request.tx_id)
        return self.target


class _Router(Router):  # type: ignore[misc]
    """pyxs's router, whose end is an answer to everyone who waits."""

    def __init__(self, path: str, deadline_s: float, sock: socket.socket | None, on_end: Callable[[], None]) -> None:
        super().__init__(_Connection(path, deadline_s, sock))
        self.deadline_s = deadline_s
        self.on_end = on_end
        self.ended = False

    def __call__(self) -> None:
        # Whatever ends the thread (a lost connection, an answer that pyxs does not know), those who wait hear of it.
        with contextlib.suppress(Exception):
            super().__call__()
        with self.send_lock:
            self.ended = True
            waiting = dict(self.rvars)
            self.rvars.clear()
        for request_id, answer in waiting.items():
            answer.set(Packet(Op.ERROR, b"ECONNRESET\0", request_id, 0))
        self.on_end()

    def start(self) -> None:
        try:
            super().start()
        except pyxs.ConnectionError:
            # Without a thread nobody else closes these; with one they are closed twice, which does no harm.
            self.r_terminator.close()
            self.w_terminator.close()
            raise

    def send(self, packet: Packet) -> _Answer:
        answer = _Answer()
        answer.deadline_s = self.deadline_s
        answer.request = packet
        with self.send_lock:
            if self.ended:
                raise pyxs.ConnectionError("not connected")
            self.rvars[packet.rq_id] = answer
            try:
                self.connection.send(packet)
            except pyxs.ConnectionError:
                # Part of the message may be out: nothing more can be said on this connection.
                self.connection.shut_down()
                raise
        return answer

    def terminate(self) -> None:
        self.connection.shut_down()
        if self.thread.is_alive():
            self.thread.join()


class XenstoreTransaction:
    """Reads and writes, in a transaction or out of it. Paths and values are text."""

    def __init__(self, client: pyxs.Client, where: str) -> None:
        self._client = client
        self._where = where

    def _call(self, what: str, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except pyxs.ConnectionError as e:
            raise PeerGoneError(f"the connection to xenstore at {self._where} is lost: {e}") from None
        except pyxs.PyXSError as e:
            name = errno.errorcode.get(e.args[0] if e.args else 0, "EINVAL")
            if name == "ECONNRESET":
                raise PeerGoneError(f"the connection to xenstore at {self._where} is lost") from None
            raise XenstoreError(name, what) from None
        except ValueError:
            raise UsageError(f"xenstore takes printable ASCII text, at least one character, for {what}") from None

    def read(self, path: str, default: str | None = None) -> str:
        """A node's value; `default`, if there is one, for a node that does not exist. XenstoreError otherwise."""
        try:
            value: bytes = self._call(f"read {path}", self._client.read, path.encode())
            return value.decode(errors="replace")
        except XenstoreError as e:
            if e.name == "ENOENT" and default is not None:
                return default
            raise

    def write(self, path: str, value: str) -> None:
        """Write a node, making it and its parents if need be."""
        self._call(f"write {path}", self._client.write, path.encode(), value.encode())

    def mkdir(self, path: str) -> None:
        """Make sure that a node exists."""
        self._call(f"mkdir {path}", self._client.mkdir, path.encode())

    def rm(self, path: str) -> None:
        """Remove a node and all below it."""
        self._call(f"rm {path}", self._client.delete, path.encode())

    def directory(self, path: str) -> list[str]:
        """Names of a node's children."""
        return [name.decode() for name in self._call(f"directory {path}", self._client.list, path.encode())]

    def exists(self, path: str) -> bool:
        """Whether a node exists, as far as we may know."""
        try:
            self.read(path)  # its list of children may be too long to be told
        except XenstoreError as e:
            if e.name in ("ENOENT", "EACCES"):
                return False
            raise
        return True

    def get_perms(self, path: str) -> list[str]:
        """A node's permissions, such as n0 and r1."""
        return [perm.decode() for perm in self._call(f"get_perms {path}", self._client.get_perms, path.encode())]

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """Set a node's permissions; the first entry names the owner and what everyone else may do."""
        self._call(f"set_perms {path}", self._client.set_perms, path.encode(), [perm.encode() for perm in perms])


class Xenstore(XenstoreTransaction):
    """A connection to xenstore's socket at `path`; used from any thread, `next_event` from one.

    With `sock`, one that is connected already, `path` only says where to. The socket is closed with the connection.
    """

    def __init__(self, path: str, *, deadline_s: float = 10.0, sock: socket.socket | None = None) -> None:
        self._events = _Events()
        router = _Router(path, deadline_s, sock, lambda: self._events.put(_LOST))
        super().__init__(pyxs.Client(router=router), path)
        try:
            self._client.connect()
        except pyxs.ConnectionError as e:
            raise PeerGoneError(f"no xenstore answers at {path}: {e}") from None
        self._monitor = self._client.monitor()
        self._monitor.events = self._events
        self._tokens: set[str] = set()
        self._closed = False
        self._lock = threading.Lock()

    def transact(self, function: Callable[[XenstoreTransaction], T]) -> T:
        """Run `function` in a transaction of its own, again as long as somebody else's change comes in between.

        Such a change may also be why something is refused in a transaction: rm answers EIO for a tree that is half
        gone. So a refusal counts when it comes twice in a row.
        """
        refusal = ""
        for _ in range(TRANSACTION_ATTEMPTS):
            client = copy.copy(self._client)
            transaction = XenstoreTransaction(client, self._where)
            self._call("start a transaction", client.transaction)
            try:
                result = function(transaction)
            except BaseException as e:
                with contextlib.suppress(pyxs.PyXSError):
                    client.rollback()
                if not isinstance(e, XenstoreError) or str(e) == refusal:
                    raise
                refusal = str(e)
                continue
            refusal = ""
            if self._call("commit a transaction", client.commit):
                return result
        raise XenstoreError("EAGAIN", f"a transaction, {TRANSACTION_ATTEMPTS} times in a row")

    def prune(
        self, path: str, nr_parents: int = 1, *, only_if: Callable[[XenstoreTransaction], bool] = lambda _: True
    ) -> None:
        """Remove a node, and so many above it as lost their last child; nothing happens where it is gone already.

        `only_if` is asked in the same transaction whether it is the node that was meant.
        """

        def remove(transaction: XenstoreTransaction) -> None:
            if not only_if(transaction):
                return
            if transaction.exists(path):
                transaction.rm(path)
            parent = path
            for _ in range(nr_parents):
                parent = parent.rpartition("/")[0]
                if transaction.exists(parent) and not transaction.directory(parent):
                    transaction.rm(parent)

        try:
            self.transact(remove)
        except XenstoreError as e:
            if e.name != "ENOENT":  # somebody else removes it at the same moment
                raise

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstore serves a domain: not before it was introduced, and not once it is being destroyed."""
        return bool(self._call(f"is_domain_introduced {domid}", self._client.is_domain_introduced, domid))

    def watch(self, path: str, token: str, *, one_pending: bool = False) -> None:
        """Be told of changes at `path` or below; a first event comes at once. One path per token, or UsageError.

        With `one_pending`, what changes while an event waits to be taken is no further event: for who looks at one
        node whenever he is told to, so that nobody can fill his memory by writing it (XSA-349).
        """
        if token in self._tokens:
            raise UsageError(f"a token stands for one watch, and {token!r} is in use")
        self._tokens.add(token)
        if one_pending:
            self._events.single.add(token.encode())
        try:
            self._call(f"watch {path}", self._monitor.watch, path.encode(), token.encode())
        except XenblkError:
            self._tokens.discard(token)
            self._monitor.client.router.monitors.pop(token.encode(), None)
            raise

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching; events that are on their way are dropped."""
        self._tokens.discard(token)
        self._events.single.discard(token.encode())
        self._call(f"unwatch {path}", self._monitor.unwatch, path.encode(), token.encode())

    def next_event(self, timeout_s: float | None) -> WatchEvent | None:
        """The next event, None after the timeout. PeerGoneError when the connection is lost or closed."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=None if end_s is None else max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                return None
            if event is _LOST:
                self._events.put(_LOST)
                raise PeerGoneError(f"the connection to xenstore at {self._where} is lost")
            if event.token.decode() in self._tokens:
                return WatchEvent(event.path.decode(), event.token.decode())

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._client.close()

    def __enter__(self) -> "Xenstore":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


assert NUL == b"\0"
