"""Xenstore on Unix sockets: moves bytes between sockets and sessions, and nothing else."""

import contextlib
import os
import selectors
import socket

from xenblk.abi import DOM0, Domid
from xenblk.errors import PeerError
from xenblk.xenstore.xenstored import Xenstored

RECEIVE_BYTES: int = 1 << 14
"""How much is read from a client at a time, so that one cannot keep the others waiting."""

GUEST_CONNECTIONS_MAX: int = 64
"""How many clients a guest has at a time, so that one guest cannot use up the process's descriptors."""


class XenstoreServer:
    """Listens on sockets, one per domain. The owner of the selector calls each key's `data` with the event mask."""

    def __init__(self, core: Xenstored, selector: selectors.BaseSelector) -> None:
        self._core = core
        self._selector = selector
        self._listeners: dict[str, socket.socket] = {}
        self._connections: list[_Connection] = []

    def listen(self, path: str, domid: Domid, mode: int = 0o600) -> None:
        """Accept clients of `domid` at `path`; OSError as bind(2) has it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            os.chmod(path, mode)
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._listeners[path] = listener
        self._selector.register(listener, selectors.EVENT_READ, lambda _mask: self._accept(listener, domid))

    def unlisten(self, path: str) -> None:
        """Close and remove a socket; clients that are connected stay."""
        listener = self._listeners.pop(path)
        self._selector.unregister(listener)
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _accept(self, listener: socket.socket, domid: Domid) -> None:
        with contextlib.suppress(OSError):
            sock, _address = listener.accept()
            if domid != DOM0 and sum(c.domid == domid for c in self._connections) >= GUEST_CONNECTIONS_MAX:
                sock.close()
                return
            self._connections.append(_Connection(self, self._core, self._selector, sock, domid))

    def forget(self, connection: "_Connection") -> None:
        """A connection ended."""
        self._connections.remove(connection)

    def close(self) -> None:
        """Close every socket."""
        for connection in list(self._connections):
            connection.close()
        for path in list(self._listeners):
            self.unlisten(path)


class _Connection:
    """One client. Reads while the client takes its answers, writes while there are any."""

    def __init__(
        self,
        server: XenstoreServer,
        core: Xenstored,
        selector: selectors.BaseSelector,
        sock: socket.socket,
        domid: Domid,
    ) -> None:
        self.domid = domid
        self._server = server
        self._selector = selector
        self._sock = sock
        self._closed = False
        self._serving = False
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, self._ready)
        self._session = core.connect(domid, self._has_output)

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            self._receive()
        if not self._closed:
            self._send()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                self.close()
                return
            self._serving = True
            self._session.feed(data)
        except BlockingIOError:
            return
        except (OSError, PeerError):
            self.close()
        finally:
            self._serving = False

    def _has_output(self) -> None:
        """Another session's request left something for this client, or its domain is gone."""
        if self._session.closed:
            self.close()
        elif not self._serving:
            self._want()

    def _send(self) -> None:
        try:
            while data := self._session.output:
                self._session.consume(self._sock.send(data))
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._want()

    def _want(self) -> None:
        wanted = 0 if self._session.congested else selectors.EVENT_READ
        if self._session.output:
            wanted |= selectors.EVENT_WRITE
        self._selector.modify(self._sock, wanted, self._ready)

    def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed = True
        self._selector.unregister(self._sock)
        self._sock.close()
        self._session.close()
        self._server.forget(self)
