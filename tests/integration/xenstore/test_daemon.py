"""`xenblk xenstored` as its users run it: by systemd, from scripts with a pid file, with XENSTORED_PATH."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenblk.abi import Domid
from xenblk.errors import HostError
from xenblk.xenstore.client import Xenstore
from xenblk.xenstore.daemon import XenstoreDaemon, default_socket_path
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType

DEADLINE_S = 30.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `xenblk xenstored` with options and environment, and waits until it is ready."""
    running: list[subprocess.Popen[str]] = []

    def _start(*options: str, **environment: str) -> "subprocess.Popen[str]":
        env = {k: v for k, v in os.environ.items() if not k.startswith("XENSTORED")} | environment
        command = [sys.executable, "-m", "xenblk", "xenstored", *options]
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("xenblk xenstored: ready; XENSTORED_PATH=/")
        return process

    yield _start
    for process in running:
        process.kill()
        process.communicate()


def _refused(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "xenblk", "xenstored", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, done.stderr


def test_from_start_to_stop(start: Start, tmp_path: Path) -> None:
    path, pid_path = tmp_path / "a" / "b" / "xs", tmp_path / "pid"
    process = start("--socket", str(path), "--pid-file", str(pid_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pid_path.read_text() == f"{process.pid}\n"
    with Xenstore(str(path)) as store:
        store.write("/a", "1")
        assert store.read("/a") == "1"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    assert sorted(p.name for p in path.parent.iterdir()) == []
    assert not pid_path.exists()


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"XENSTORED_PATH": "p", "XENSTORED_RUNDIR": "r"}, "p"),
        ({"XENSTORED_RUNDIR": "r"}, "r/socket"),
        ({"XENSTORED_PATH": "", "XENSTORED_RUNDIR": "r"}, "r/socket"),
    ],
)
def test_where_libxenstore_looks(start: Start, tmp_path: Path, environment: dict[str, str], where: str) -> None:
    start(**environment)
    with Xenstore(str(tmp_path / where)) as store:
        assert store.directory("/") == ["tool"]


def test_where_libxenstore_looks_without_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENSTORED_PATH", raising=False)
    monkeypatch.delenv("XENSTORED_RUNDIR", raising=False)
    assert default_socket_path() == Path("/var/run/xenstored/socket")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(start: Start, tmp_path: Path, abstract: bool) -> None:
    name = f"xenblk-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name if abstract else name)
        sock.settimeout(DEADLINE_S)
        start("--socket", "xs", NOTIFY_SOCKET=("@" if abstract else "") + name)
        assert sock.recv(100) == b"READY=1"


def test_nobody_listens_to_the_notification(start: Start) -> None:
    start("--socket", "xs", NOTIFY_SOCKET="/nowhere/at/all")


def test_two_at_one_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "xs"
    start("--socket", str(path))
    code, text = _refused("--socket", str(path))
    assert (code, text) == (1, f"xenblk: somebody serves {path} already: stop it or choose another\n")
    with Xenstore(str(path)) as store:
        assert store.exists("/tool")


def test_what_a_killed_one_left(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "xs"
    killed = start("--socket", str(path))
    killed.kill()
    killed.wait()
    assert path.exists()
    start("--socket", str(path))
    with Xenstore(str(path)) as store:
        assert store.exists("/tool")


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    code, text = _refused("--socket", str(path))
    assert (code, text) == (1, f"xenblk: {path} is there already, and is no socket\n")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--socket", "/dev/null/xs"), "the socket /dev/null/xs cannot be made: File exists (/dev/null)"),
        (
            ("--socket", "/" + "x" * 110),
            "those of domains may have 107 bytes, and would have up to 117",
        ),
        (("--trace", "/dev/null/t"), "Not a directory: /dev/null/t"),
        (("--pid-file", "/dev/null/p"), "Not a directory: /dev/null/p"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    code, text = _refused("--socket", str(tmp_path / "xs"), *options)
    assert (code, text.count("\n"), text[:8]) == (1, 1, "xenblk: ")
    assert sentence in text
    assert [*tmp_path.iterdir()] == []


def test_trace(start: Start, tmp_path: Path) -> None:
    """SIGHUP after the file was moved away, as logrotate does it."""
    trace, old = tmp_path / "trace", tmp_path / "trace.1"
    process = start("--socket", "xs", "--trace", str(trace))
    with Xenstore(str(tmp_path / "xs")) as store:
        store.write("/a", "before")
        trace.rename(old)
        process.send_signal(signal.SIGHUP)
        while not trace.exists():
            store.read("/a")
        store.write("/a", "after")
    assert "WRITE (/a before)" in old.read_text()
    assert "WRITE (/a after)" in trace.read_text()
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    lines = [line.split(" ", 4) for line in old.read_text().splitlines()]
    assert [line[0] for line in lines][:4] == ["***", "CREATE", "IN", "OUT"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[XenstoreDaemon]:
    """The same in this process, in a thread of its own."""
    with XenstoreDaemon(tmp_path / "xs") as made:
        thread = threading.Thread(target=made.run)
        thread.start()
        yield made
        made.stop()
        thread.join()
    assert not [*tmp_path.iterdir()]


def _ask(path: Path, kind: XsMsgType, payload: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(path))
        sock.sendall(Packet(kind, 1, 0, payload).encode())
        parser = PacketParser()
        while True:
            data = sock.recv(4096)
            assert data, "the connection ended"
            for packet in parser.feed(data):
                return packet.payload


def test_a_domain_from_introduce_to_release(daemon: XenstoreDaemon) -> None:
    guest = daemon.guest_path(Domid(5))
    assert _ask(daemon.path, XsMsgType.WRITE, b"/home\0v") == b"OK\0"
    assert _ask(daemon.path, XsMsgType.SET_PERMS, b"/home\0n5\0") == b"OK\0"
    for _ in range(2):
        assert _ask(daemon.path, XsMsgType.INTRODUCE, b"5\x001\x001\0") == b"OK\0"
        assert _ask(guest, XsMsgType.READ, b"/home\0") == b"v"
        assert _ask(guest, XsMsgType.WRITE, b"/other\0v") == b"EACCES\0"
    assert stat.S_IMODE(guest.stat().st_mode) == 0o600
    assert _ask(daemon.path, XsMsgType.RELEASE, b"5\0") == b"OK\0"
    assert not guest.exists()
    assert _ask(daemon.path, XsMsgType.INTRODUCE, b"5\x001\x001\0") == b"OK\0"
    assert _ask(guest, XsMsgType.READ, b"/home\0") == b"EACCES\0", "it is gone, and the root is closed"


def test_a_domain_whose_socket_cannot_be(daemon: XenstoreDaemon) -> None:
    folder = daemon.guest_path(Domid(6))
    folder.mkdir()
    assert _ask(daemon.path, XsMsgType.INTRODUCE, b"6\x001\x001\0") == b"EINVAL\0"
    assert _ask(daemon.path, XsMsgType.IS_DOMAIN_INTRODUCED, b"6\0") == b"F\0"
    folder.rmdir()


def test_regression_more_clients_than_descriptors(tmp_path: Path) -> None:
    """Those that there is no room for are turned away; before, the server tried to accept them again and again."""
    path = tmp_path / "xs"
    command = ["sh", "-c", f"ulimit -n 40 && exec {sys.executable} -m xenblk xenstored --socket {path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, contextlib.ExitStack() as stack:
        assert process.stdout is not None
        stack.callback(process.kill)
        process.stdout.readline()
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(60)]
        for client in clients:
            client.settimeout(DEADLINE_S)
            client.connect(str(path))
        clients[0].sendall(Packet(XsMsgType.READ, 1, 0, b"/tool\0").encode())
        assert len(clients[0].recv(100)) == 16
        assert clients[-1].recv(100) == b""


def test_a_refused_daemon_gives_all_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with XenstoreDaemon(tmp_path / "xs"), pytest.raises(HostError, match="somebody serves"):
        XenstoreDaemon(tmp_path / "xs", tmp_path / "trace")
    assert len(os.listdir("/proc/self/fd")) == before
