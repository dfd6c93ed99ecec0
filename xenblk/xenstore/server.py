"""Xenstore on Unix sockets, with rings beside them: moves bytes between sockets and sessions, and nothing else."""

import contextlib
import errno
import os
import socket
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.errors import PeerError
from xenblk.loop import READ, WRITE, Loop
from xenblk.xenstore.page import XenstorePage
from xenblk.xenstore.rings import Doorbell, RingConnection
from xenblk.xenstore.xenstored import Xenstored

RECEIVE_BYTES: Final = 1 << 14
"""How much is read from a client at a time, so that one cannot keep the others waiting."""

GUEST_CONNECTIONS_MAX: Final = 64
"""How many clients a guest has at a time, so that one guest cannot use up the process's descriptors."""


class XenstoreServer:
    """Listens on sockets, one per domain, in somebody's loop."""

    def __init__(self, core: Xenstored, loop: Loop) -> None:
        self.core = core
        self.loop = loop
        self._listeners: dict[str, socket.socket] = {}
        self._connections: set[_Connection] = set()
        self._rings: dict[Domid, RingConnection] = {}
        self.changed: set[_Connection | RingConnection] = set()
        """Those that have something to do before anybody waits for anything."""
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        loop.add_ticker(self._tick)

    def listen(self, path: str, domid: Domid, mode: int = 0o600) -> None:
        """Accept clients of `domid` at `path`; OSError as bind(2) has it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            os.chmod(path, mode)
            listener.listen(64)
            listener.setblocking(False)
            self.loop.add(listener.fileno(), READ, lambda _mask: self._accept(listener, domid))
        except OSError:
            listener.close()
            raise
        self._listeners[path] = listener

    def unlisten(self, path: str) -> None:
        """Close and remove a socket; clients that are connected stay."""
        listener = self._listeners.pop(path)
        self.loop.remove(listener.fileno())
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _accept(self, listener: socket.socket, domid: Domid) -> None:
        try:
            sock, _address = listener.accept()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away(listener)
            return
        if domid != DOM0 and sum(c.domid == domid for c in self._connections) >= GUEST_CONNECTIONS_MAX:
            sock.close()
        else:
            self._connections.add(_Connection(self, sock, domid))

    def _turn_away(self, listener: socket.socket) -> None:
        """End a connection that no descriptor is left for: if nobody accepted it, the listener would never be quiet."""
        os.close(self._spare_fd)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _tick(self) -> float | None:
        """Serve those whom something concerns that they or others did.

        Replies go out after all that came in was read: who waits for several of them wakes up once.
        """
        core, changed = self.core, self.changed
        core.tick()
        while changed:
            changed.pop().serve()
        return None if core.due_s is None else max(0.0, core.due_s - core.clock())

    def connect_ring(self, domid: Domid, page: XenstorePage, doorbell: Doorbell) -> None:
        """Serve a domain's ring, instead of the one that it had, if any. Page and doorbell are the server's then."""
        self.disconnect_ring(domid)
        self._rings[domid] = RingConnection(self.core, self.loop, domid, page, doorbell, self.changed.add)

    def reset_ring(self, domid: Domid) -> None:
        """A domain is introduced again; nothing happens if it has no ring."""
        if (ring := self._rings.get(domid)) is not None:
            ring.begin_anew()

    def disconnect_ring(self, domid: Domid) -> None:
        """A domain's ring is no more; nothing happens if there is none."""
        ring = self._rings.pop(domid, None)
        if ring is not None:
            self.changed.discard(ring)
            ring.close()

    def forget(self, connection: "_Connection") -> None:
        """A connection ended."""
        self._connections.discard(connection)
        self.changed.discard(connection)

    def close(self) -> None:
        """Close every socket."""
        for connection in list(self._connections):
            connection.close()
        for domid in list(self._rings):
            self.disconnect_ring(domid)
        for path in list(self._listeners):
            self.unlisten(path)
        os.close(self._spare_fd)


class _Connection:
    """One client. Reads while the client takes its answers, writes while there are any."""

    def __init__(self, server: XenstoreServer, sock: socket.socket, domid: Domid) -> None:
        self.domid = domid
        self._server = server
        self._sock = sock
        self._mask: int = READ
        self._closed = False
        sock.setblocking(False)
        server.loop.add(sock.fileno(), READ, self._ready)
        self._session = server.core.connect(domid, lambda: server.changed.add(self))

    def _ready(self, mask: int) -> None:
        try:
            if mask & ~WRITE:
                data = self._sock.recv(RECEIVE_BYTES)
                if not data:
                    self.close()
                    return
                self._session.feed(data)
            self._server.changed.add(self)
        except BlockingIOError:
            pass
        except (OSError, PeerError):
            self.close()

    def serve(self) -> None:
        """Send what there is to send, and go on with what had to wait."""
        session = self._session
        output = b""
        try:
            session.work()
            while output := session.output:
                session.consume(self._sock.send(output))
        except BlockingIOError:
            pass
        except (OSError, PeerError):
            self.close()
            return
        if session.closed:
            self.close()
            return
        mask = (0 if session.waiting else READ) | (WRITE if output else 0)
        if mask != self._mask:
            self._mask = mask
            self._server.loop.change(self._sock.fileno(), mask)

    def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed = True
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()
        self._session.close()
        self._server.forget(self)
