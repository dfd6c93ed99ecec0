"""An end of an event channel of real Xen: one descriptor of /dev/xen/evtchn with one port (evtchn.h)."""

import contextlib
import errno
import fcntl
import os
import select
import struct
from typing import Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid, EvtchnPort
from xenblk.errors import HostError
from xenblk.xen.devices import Devices

BIND_INTERDOMAIN: Final = 0x084501
"""ioctl numbers of include/uapi/xen/evtchn.h: size << 16 | letter << 8 | number."""

BIND_UNBOUND_PORT: Final = 0x044502
UNBIND: Final = 0x044503


class XenEventChannel:
    """One end. `native` is this end as a native engine uses it (xenblk/channel.h).

    Whether somebody holds the other end Xen does not tell a process that is none of its control domain's.
    """

    def __init__(self, fd: int, port: EvtchnPort) -> None:
        self.port = port
        self._native = ffi.new("struct xb_evtchn_device *")
        self._native.fd, self._native.port = fd, port
        self._native.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._both = select.epoll(2)
        self._native.both_fd = self._both.fileno()
        for each in (fd, self._native.wake_fd):
            self._both.register(each, select.EPOLLIN)
        self._closed = False
        self.native = ffi.new("struct xb_channel *")
        lib.xb_evtchn_device_channel(self._native, self.native)

    @classmethod
    def alloc_unbound(cls, devices: Devices, remote: Domid) -> "XenEventChannel":
        """A new event channel that `remote` may bind to."""
        what = f"an event channel for domain {remote}"
        return cls._bound(devices, BIND_UNBOUND_PORT, struct.pack("=I", remote), what)

    @classmethod
    def bind_interdomain(cls, devices: Devices, remote: Domid, port: EvtchnPort) -> "XenEventChannel":
        """The other end of what `remote` allocated. HostError, EINVAL mostly, if it is not free for us to bind."""
        what = f"event channel {port} of domain {remote}"
        return cls._bound(devices, BIND_INTERDOMAIN, struct.pack("=II", remote, port), what)

    @classmethod
    def _bound(cls, devices: Devices, request: int, argument: bytes, what: str) -> "XenEventChannel":
        with contextlib.ExitStack() as undo:
            fd = devices.open("evtchn", os.O_NONBLOCK)
            undo.callback(os.close, fd)
            try:
                port = fcntl.ioctl(fd, request, bytearray(argument))
            except OSError as e:
                name = errno.errorcode.get(e.errno or 0, "EINVAL")
                raise HostError(name, f"{what} cannot be bound: Xen answers {name}") from None
            channel = cls(fd, EvtchnPort(port))
            undo.pop_all()
        return channel

    def fileno(self) -> int:
        """Readable after an event or `wake`, until `wait` took it."""
        return int(self._native.both_fd)

    @property
    def remote_bound(self) -> bool:
        """True: this platform cannot tell."""
        return True

    def notify(self) -> None:
        """Send an event to the other end."""
        lib.xb_evtchn_device_notify(self._native)

    def wait(self, timeout_s: float | None) -> bool:
        """Take an event, waiting for one if there is none."""
        timeout_ns = -1 if timeout_s is None else max(0, int(timeout_s * 1e9))
        return bool(lib.xb_evtchn_device_wait(self._native, timeout_ns))

    def wake(self) -> None:
        """Wake our own waiter, from any thread."""
        lib.xb_evtchn_device_wake(self._native)

    def close(self) -> None:
        """Close the port, with its descriptor; once is enough."""
        if self._closed:
            return
        self._closed = True
        fds = self._native.fd, self._native.wake_fd
        self._native.fd = self._native.wake_fd = self._native.both_fd = -1  # first: somebody may be about to wake us
        self._both.close()
        for fd in fds:
            os.close(fd)
