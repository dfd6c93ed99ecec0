"""The control socket between a process and its emulated Xen: one JSON object a message, descriptors beside it.

A process asks, the host answers each request in order; the host never speaks first. The connection is the process's
life as far as the host knows: its end, however it comes, releases all that the process held.

Requests (`op`), their fields and the answer's fields and descriptors:

    enter     domid              owner grant_frames memory_frames; maptrack, words [, memory]  boot it; or join 0
    create    domid memory_frames                domid                      make a domain (domid null: lowest free)
    destroy   domid                                                         end a domain as if it had crashed
    halt                                                                    the booted domain shut down in good order
    foreign   domid              instance memory_frames; memory, active        another domain's grants, to map from
    unbound   remote             port channel side; own eventfd, remote's   EVTCHNOP_alloc_unbound
    bind      remote port        port channel side; own eventfd, remote's   EVTCHNOP_bind_interdomain
    close     port                                                          EVTCHNOP_close
    counters  name               path                                       the file of a ring's counters
    status                       domains                                    what a person or a test wants to know

A refusal has `error` (an errno name) and `message` (a sentence) and no descriptors.
"""

import array
import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, Final

from xenblk.errors import HostError, PeerGoneError

MESSAGE_BYTES_MAX: Final = 1 << 18
FDS_MAX: Final = 4

Message = dict[str, Any]


def send_message(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Send one message; OSError as the socket gives it."""
    socket.send_fds(sock, [json.dumps(message).encode()], fds or [])


def receive_message(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message, None at the end of the connection; ValueError if it is not a JSON object.

    The descriptors are the caller's, and close when another program is executed.
    """
    data, fds = _receive_fds(sock)
    if not data:
        return None
    try:
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("a control message is a JSON object")
    except ValueError:
        close_fds(fds)
        raise
    return message, fds


def _receive_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    """As socket.recv_fds, which drops its flags: a program that is started must not keep a domain's memory alive."""
    fds = array.array("i")
    data, ancillary, _flags, _address = sock.recvmsg(
        MESSAGE_BYTES_MAX, socket.CMSG_LEN(FDS_MAX * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def close_fds(fds: list[int]) -> None:
    """Close descriptors that came with a message nobody wants."""
    for fd in fds:
        os.close(fd)


class ControlClient:
    """A process's end of the control socket; calls from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.connect(str(path))
        except OSError as e:
            self._sock.close()
            raise HostError(
                "ENOENT", f"no emulated Xen answers at {path} ({e.strerror}): start one with `xenblk host`"
            ) from None

    def fileno(self) -> int:
        """Becomes readable when the host goes away."""
        return self._sock.fileno()

    def call(self, op: str, **fields: Any) -> tuple[Message, list[int]]:
        """Ask the host; HostError if it refuses, PeerGoneError if it went away. The caller owns the descriptors."""
        try:
            with self._lock:
                send_message(self._sock, {"op": op, **fields})
                answer = receive_message(self._sock)
        except (OSError, ValueError) as e:
            raise PeerGoneError(f"the emulated Xen at {self._path} went away: {e}") from None
        if answer is None:
            raise PeerGoneError(f"the emulated Xen at {self._path} went away")
        message, fds = answer
        if "error" in message:
            close_fds(fds)
            raise HostError(message["error"], message["message"])
        return message, fds

    def close(self) -> None:
        """Leave; the host releases what this process still holds."""
        with contextlib.suppress(OSError):
            self._sock.close()
