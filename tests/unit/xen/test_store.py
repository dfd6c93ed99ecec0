"""The ways to xenstore of a domain of real Xen: the daemon's socket, and the device through a bridge."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenblk.errors import HostError, PeerGoneError
from xenblk.xen.devices import Devices
from xenblk.xen.store import DeviceBridge, open_store, own_domid, socket_path
from xenblk.xenstore.client import Xenstore


class Xenbus:
    """A double of the device: each write is one whole message, answers and events come in pieces of any size."""

    def __init__(self, store_path: Path, piece_bytes: int) -> None:
        self._ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device_fd = device.detach()
        self._piece_bytes = piece_bytes
        self.failure = ""
        self._daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._daemon.connect(str(store_path))
        self.threads = [threading.Thread(target=self._requests), threading.Thread(target=self._answers)]
        for thread in self.threads:
            thread.start()

    def _requests(self) -> None:
        while message := self._ours.recv(65536):
            if len(message) != 16 + struct.unpack("=IIII", message[:16])[3]:
                self.failure = f"a write of {len(message)} bytes is not one message"
            self._daemon.sendall(message)
        self._daemon.shutdown(socket.SHUT_RDWR)

    def _answers(self) -> None:
        try:
            while piece := self._daemon.recv(self._piece_bytes):
                self._ours.send(piece)
        except BrokenPipeError:
            pass
        self._daemon.close()


@pytest.fixture(params=[1, 7, 4096])
def xenbus(request: pytest.FixtureRequest, store_path: Path) -> Iterator[Xenbus]:
    xenbus = Xenbus(store_path, request.param)
    yield xenbus
    for thread in xenbus.threads:
        thread.join()  # that of requests ends when the device is closed
    xenbus._ours.close()
    assert xenbus.failure == ""


def test_a_client_over_the_device(xenbus: Xenbus) -> None:
    bridge = DeviceBridge(xenbus.device_fd)
    with Xenstore("the device", sock=bridge.socket) as store:
        store.watch("/here", "token")
        assert store.next_event(10) is not None
        store.transact(lambda transaction: [transaction.write(f"/here/{i}", "x" * i) for i in range(1, 50)])
        seen = {getattr(store.next_event(10), "path", None) for _ in range(49)}
        assert seen == {f"/here/{i}" for i in range(1, 50)}
        assert store.read("/here/49") == "x" * 49
    bridge.join()


def test_several_messages_that_come_at_once_are_several_writes(xenbus: Xenbus) -> None:
    bridge = DeviceBridge(xenbus.device_fd)
    message = struct.pack("=IIII", 2, 1, 0, 2) + b"/\0"
    bridge.socket.sendall(message * 3 + message[:5])
    bridge.socket.sendall(message[5:])
    answers = b""
    while len(answers) < 4 * 16:
        answers += bridge.socket.recv(4096)
    assert answers.count(struct.pack("=III", 2, 1, 0)) == 4
    bridge.socket.close()
    bridge.join()


def test_a_device_that_ends_is_a_lost_connection() -> None:
    ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bridge = DeviceBridge(device.detach())
    with Xenstore("the device", sock=bridge.socket) as store:
        ours.close()
        with pytest.raises(PeerGoneError):
            store.read("/")
    bridge.join()


def test_where_the_socket_is(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_path(devices) is None
    path = devices.root / "var/run/xenstored/socket"
    path.parent.mkdir(parents=True)
    path.touch()
    assert socket_path(devices) == path
    monkeypatch.setenv("XENSTORED_RUNDIR", "/elsewhere")
    assert socket_path(devices) == Path("/elsewhere/socket")
    monkeypatch.setenv("XENSTORED_PATH", "/another")
    assert socket_path(devices) == Path("/another")


def test_which_domain_this_is(devices: Devices, store_path: Path) -> None:
    with open_store(devices) as store:
        with pytest.raises(HostError, match="does not tell which domain this is: its node `domid` is ''"):
            own_domid(store, devices)
        (devices.root / "proc/xen").mkdir(parents=True)
        (devices.root / "proc/xen/capabilities").write_text("control_d\n")
        assert own_domid(store, devices) == 0
        store.write("/local/domain/0/domid", "5")
        assert own_domid(store, devices) == 5


def test_no_way_to_xenstore(devices: Devices) -> None:
    with pytest.raises(HostError, match=r"there is no .*/dev/xen/xenbus"):
        open_store(devices)
