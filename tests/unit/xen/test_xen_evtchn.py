"""An end of an event channel over a double of its device: a socket that hands out ports and takes them back."""

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from xenblk._native import ffi
from xenblk.abi import EvtchnPort
from xenblk.errors import HostError
from xenblk.xen.devices import Devices
from xenblk.xen.evtchn import XenEventChannel

PORT = 9


class Xen:
    """The other side of the device: a port is masked from when it was handed out to when it is written back."""

    def __init__(self) -> None:
        self.socket, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        device.setblocking(False)
        self.device_fd = device.detach()

    def send(self) -> None:
        """An event of the other domain's."""
        self.socket.send(struct.pack("=I", PORT))

    def unmasked(self) -> list[int]:
        """The ports that were written back since the last look."""
        ports = []
        while select.select([self.socket], [], [], 0)[0]:
            ports += struct.unpack("=I", self.socket.recv(4))
        return ports


@pytest.fixture
def xen(nothing_leaks: None) -> Iterator[Xen]:
    xen = Xen()
    yield xen
    xen.socket.close()


@pytest.fixture
def channel(xen: Xen) -> Iterator[XenEventChannel]:
    channel = XenEventChannel(xen.device_fd, EvtchnPort(PORT))
    yield channel
    channel.close()


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_an_event_is_taken_once_and_its_port_unmasked(xen: Xen, channel: XenEventChannel) -> None:
    assert not channel.wait(0)
    assert not is_readable(channel.fileno())
    xen.send()
    assert is_readable(channel.fileno())
    assert xen.unmasked() == []
    assert channel.wait(None)
    assert xen.unmasked() == [PORT]
    assert not is_readable(channel.fileno())
    assert not channel.wait(0.001)


def test_a_sleeper_is_woken_by_an_event_and_by_us(xen: Xen, channel: XenEventChannel) -> None:
    answers: list[bool] = []
    for act in (xen.send, channel.wake):
        sleeper = threading.Thread(target=lambda: answers.append(channel.wait(None)))
        sleeper.start()
        act()
        sleeper.join()
    assert answers == [True, False]
    assert not is_readable(channel.fileno())


def test_wakes_are_one(channel: XenEventChannel) -> None:
    for _ in range(3):
        channel.wake()
    assert is_readable(channel.fileno())
    assert not channel.wait(None)
    assert not is_readable(channel.fileno())


def test_a_native_engine_uses_the_same(xen: Xen, channel: XenEventChannel) -> None:
    native = channel.native
    assert native.fd == channel.fileno()
    xen.send()
    assert native.wait(native.context, -1) == 1
    assert native.wait(native.context, 0) == 0
    native.notify(native.context)  # a socket is no device, and an error is nobody's to handle


def test_closing_once_is_enough(xen: Xen) -> None:
    channel = XenEventChannel(xen.device_fd, EvtchnPort(PORT))
    channel.close()
    channel.close()
    assert xen.socket.recv(4) == b""
    assert ffi.typeof(channel.native) is ffi.typeof("struct xb_channel *")


def test_a_port_that_cannot_be_bound(devices: Devices, nothing_leaks: None) -> None:
    """A file knows none of the device's calls."""
    devices.path("evtchn").touch()
    with pytest.raises(HostError, match="event channel 5 of domain 3 cannot be bound: Xen answers ENOTTY") as raised:
        XenEventChannel.bind_interdomain(devices, 3, EvtchnPort(5))
    assert raised.value.name == "ENOTTY"
    with pytest.raises(HostError, match="an event channel for domain 3 cannot be bound"):
        XenEventChannel.alloc_unbound(devices, 3)
    assert os.path.getsize(devices.path("evtchn")) == 0
