"""Xenstore from a domain of real Xen: by the daemon's socket where it runs, else through /dev/xen/xenbus.

The device takes one message a write and gives bytes of answers and events, so a thread carries whole messages between
it and a socket. Closing the socket ends the thread and closes the device.
"""

import contextlib
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Final

from xenblk.errors import HostError
from xenblk.xen.devices import Devices
from xenblk.xenstore.client import Xenstore

_HEADER: Final = struct.Struct("=IIII")
_PIECE_BYTES: Final = 4096


def open_store(devices: Devices) -> Xenstore:
    """A new connection. HostError if there is no way to xenstore, PeerGoneError if nobody answers there."""
    path = socket_path(devices)
    if path is not None:
        return Xenstore(str(path))
    return Xenstore(str(devices.path("xenbus")), sock=DeviceBridge(devices.open("xenbus", os.O_NONBLOCK)).socket)


def socket_path(devices: Devices) -> Path | None:
    """The daemon's socket, where xen's tools look for it; None if there is none."""
    if "XENSTORED_PATH" in os.environ:
        return Path(os.environ["XENSTORED_PATH"])
    if "XENSTORED_RUNDIR" in os.environ:
        return Path(os.environ["XENSTORED_RUNDIR"]) / "socket"
    for folder in ("run/xenstored", "var/run/xenstored"):
        path = devices.root / folder / "socket"
        if path.exists():
            return path
    return None


def own_domid(store: Xenstore, devices: Devices) -> int:
    """Which domain this is. A path that does not begin at the root begins at the domain's own directory."""
    text = store.read("domid", "")
    if text.isdecimal():
        return int(text)
    if devices.is_control_domain:
        return 0
    raise HostError("ENOENT", f"xenstore does not tell which domain this is: its node `domid` is {text!r}")


class DeviceBridge:
    """Owns the device, opened not to block; `socket` is the caller's."""

    def __init__(self, device_fd: int) -> None:
        self.socket, self._inner = socket.socketpair()
        self._device_fd = device_fd
        self._to_device = b""
        self._thread = threading.Thread(target=self._run, name="xenstore-device", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while self._carry():
                pass
        self._inner.close()
        os.close(self._device_fd)

    def _carry(self) -> bool:
        poll = select.poll()
        poll.register(self._device_fd, select.POLLIN)
        poll.register(self._inner, select.POLLIN)
        for fd, _mask in poll.poll():
            if fd == self._device_fd:
                data = os.read(fd, _PIECE_BYTES)
                self._inner.sendall(data)
            else:
                data = self._inner.recv(_PIECE_BYTES)
                self._send(data)
            if not data:
                return False
        return True

    def _send(self, data: bytes) -> None:
        self._to_device += data
        while len(self._to_device) >= _HEADER.size:
            message_bytes = _HEADER.size + _HEADER.unpack_from(self._to_device)[3]
            if len(self._to_device) < message_bytes:
                return
            os.write(self._device_fd, self._to_device[:message_bytes])
            self._to_device = self._to_device[message_bytes:]

    def join(self) -> None:
        """Wait for the end, after the socket was closed."""
        self._thread.join()
