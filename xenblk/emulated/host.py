"""`xenblk host` as a program: one loop over the control socket and the xenstore sockets of an emulated Xen.

Data comes in as control messages (control.py) and xenstore bytes; it leaves as answers, descriptors and wake-ups.
A connection that ends is a process that ended.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from xenblk.abi import DOM0, PAGE_SIZE, Domid, EvtchnPort
from xenblk.emulated.channels import Channel
from xenblk.emulated.control import Message, close_fds, receive_message, send_message
from xenblk.emulated.domain import GRANT_FRAMES, MEMORY_FRAMES_DEFAULT
from xenblk.emulated.hypervisor import Hypervisor, Process
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import HostError
from xenblk.loop import READ, Loop
from xenblk.xenstore.server import XenstoreServer
from xenblk.xenstore.xenstored import Xenstored

Answer = tuple[Message, list[int]]


class HostServer:
    """An emulated Xen in a run directory: `run` serves until `stop`, from any thread or signal handler."""

    def __init__(self, run_dir: Path) -> None:
        self.run_directory = RunDirectory(run_dir)
        self.run_directory.claim()
        self._loop = Loop()
        self._connections: list[_Connection] = []
        self._sockets: set[Domid] = set()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        core = Xenstored(clock=time.monotonic)
        self._xenstore = XenstoreServer(core, self._loop)
        self.hypervisor = Hypervisor(self._xenstore, self.run_directory.counters)
        self._xenstore.listen(str(self.run_directory.xenstore(DOM0)), DOM0)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.run_directory.control))
        os.chmod(self.run_directory.control, 0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._loop.add(self._listener.fileno(), READ, self._accept)

    def run(self) -> None:
        """Serve until `stop`."""
        self._loop.run()

    def stop(self) -> None:
        """Let `run` return."""
        self._loop.stop()

    def close(self) -> None:
        """End every connection and remove the run directory."""
        for connection in list(self._connections):
            connection.close()
        if hasattr(self, "_listener"):
            self._listener.close()
        if hasattr(self, "_xenstore"):
            self._xenstore.close()
        self._loop.close()
        self.run_directory.release()

    def __enter__(self) -> "HostServer":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _accept(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _address = self._listener.accept()
            self._connections.append(_Connection(self, sock))

    # What a connection needs of its host

    def create_domain(self, domid: Domid | None, memory_frames: int) -> Domid:
        """Make a domain and open its xenstore socket."""
        domid = self.hypervisor.create_domain(domid, memory_frames)
        self._xenstore.listen(str(self.run_directory.xenstore(domid)), domid)
        self._sockets.add(domid)
        return domid

    def sweep_sockets(self) -> None:
        """Close the xenstore sockets of domains that are no more."""
        for domid in self._sockets - self.hypervisor.domids():
            self._xenstore.unlisten(str(self.run_directory.xenstore(domid)))
            self._sockets.remove(domid)

    def watch_connection(self, sock: socket.socket, ready: Callable[[int], None]) -> None:
        """Call `ready` when a connection has something to say."""
        self._loop.add(sock.fileno(), READ, ready)

    def forget_connection(self, connection: "_Connection", sock: socket.socket) -> None:
        """The connection is over."""
        self._loop.remove(sock.fileno())
        self._connections.remove(connection)


class _Connection:
    """One process's control connection; requests are served one by one as they come."""

    def __init__(self, host: HostServer, sock: socket.socket) -> None:
        self._host = host
        self._xen = host.hypervisor
        self._sock = sock
        self._process: Process | None = None
        sock.setblocking(False)
        host.watch_connection(sock, self._ready)

    def close(self) -> None:
        """End the connection and what its process held."""
        self._host.forget_connection(self, self._sock)
        self._sock.close()
        if self._process is not None:
            self._xen.leave(self._process)
            self._host.sweep_sockets()

    def _ready(self, _mask: int) -> None:
        try:
            received = receive_message(self._sock)
            if received is None:
                self.close()
                return
            request, fds = received
            close_fds(fds)
            message, fds = self._serve(request)
            send_message(self._sock, message, fds)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()

    def _serve(self, request: Message) -> Answer:
        handler = _HANDLERS.get(str(request.get("op")))
        try:
            if handler is None:
                raise HostError("ENOSYS", f"the emulated Xen has no operation {request.get('op')!r}")
            return handler(self, request)
        except HostError as e:
            return {"error": e.name, "message": str(e)}, []
        except OSError as e:
            return {
                "error": errno.errorcode.get(e.errno or 0, "EIO"),
                "message": f"the host is short of something: {e}",
            }, []
        except (KeyError, TypeError, ValueError) as e:
            return {"error": "EINVAL", "message": f"a malformed {request.get('op')} request: {e!r}"}, []

    def _entered(self) -> Process:
        if self._process is None:
            raise HostError("EPERM", "only a process that entered a domain may ask that")
        return self._process

    def _enter(self, request: Message) -> Answer:
        if self._process is not None:
            raise HostError("EBUSY", "this process entered a domain already")
        domid = Domid(int(request["domid"]))
        process = self._process = self._xen.enter(domid)
        fds = [process.maptrack.fd, self._xen.words_fd]
        answer = {"owner": process.owner, "grant_frames": GRANT_FRAMES, "memory_frames": 0}
        if process.is_kernel:
            domain = self._xen.foreign(domid)
            fds.append(domain.memory_fd)
            answer["memory_frames"] = domain.memory_frames
        return answer, fds

    def _create(self, request: Message) -> Answer:
        domid = request["domid"]
        frames = int(request.get("memory_frames") or MEMORY_FRAMES_DEFAULT)
        return {"domid": self._host.create_domain(None if domid is None else Domid(int(domid)), frames)}, []

    def _destroy(self, request: Message) -> Answer:
        self._xen.destroy_domain(Domid(int(request["domid"])))
        self._host.sweep_sockets()
        return {}, []

    def _halt(self, _request: Message) -> Answer:
        self._xen.halt(self._entered())
        return {}, []

    def _foreign(self, request: Message) -> Answer:
        self._entered()
        domain = self._xen.foreign(Domid(int(request["domid"])))
        answer = {"instance": domain.instance, "memory_frames": domain.memory_frames, "page_bytes": PAGE_SIZE}
        return answer, [domain.memory_fd, domain.active_fd]

    def _unbound(self, request: Message) -> Answer:
        port, channel = self._xen.alloc_unbound(self._entered(), Domid(int(request["remote"])))
        return _end_of(port, channel, 0)

    def _bind(self, request: Message) -> Answer:
        remote, port = Domid(int(request["remote"])), EvtchnPort(int(request["port"]))
        local, channel = self._xen.bind_interdomain(self._entered(), remote, port)
        return _end_of(local, channel, 1)

    def _store_ring(self, _request: Message) -> Answer:
        port, channel = self._xen.open_store_ring(self._entered())
        return _end_of(port, channel, 0)

    def _close_port(self, request: Message) -> Answer:
        self._xen.close_port(self._entered(), EvtchnPort(int(request["port"])))
        return {}, []

    def _counters(self, request: Message) -> Answer:
        return {"path": str(self._xen.create_counters(self._entered(), str(request["name"])))}, []

    def _status(self, _request: Message) -> Answer:
        return {"domains": self._xen.status()}, []


def _end_of(port: EvtchnPort, channel: Channel, side: int) -> Answer:
    fds = [channel.eventfds[side], channel.eventfds[1 - side]]
    return {"port": port, "channel": channel.number, "side": side}, fds


_HANDLERS: dict[str, Callable[[_Connection, Message], Answer]] = {
    "enter": _Connection._enter,
    "create": _Connection._create,
    "destroy": _Connection._destroy,
    "halt": _Connection._halt,
    "foreign": _Connection._foreign,
    "unbound": _Connection._unbound,
    "bind": _Connection._bind,
    "store_ring": _Connection._store_ring,
    "close": _Connection._close_port,
    "counters": _Connection._counters,
    "status": _Connection._status,
}
