"""The peers that the benchmarks compare with: each runs, what it reads is checked, and what cannot run says why."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
DISK_BYTES = 16 << 20
DEADLINE_S = 120.0
NEEDS_THE_KERNEL = ("qsd, aio=native", "qsd, aio=io_uring")


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[Any, Any]]:
    """The benchmark's modules `servers` and `clients`; skips where the peers could not be fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        servers, clients = importlib.import_module("servers"), importlib.import_module("clients")
        patch.delitem(sys.modules, "servers")
        patch.delitem(sys.modules, "clients")
        if reason := servers.lacking():
            pytest.skip(reason)
        yield servers, clients


@pytest.fixture(scope="module")
def servers(modules: tuple[Any, Any]) -> Any:
    """The module that starts servers."""
    return modules[0]


@pytest.fixture(scope="module")
def clients(modules: tuple[Any, Any]) -> Any:
    """The module that runs clients."""
    return modules[1]


pytestmark = pytest.mark.checkout


def _peer(servers: Any, start: str) -> Any:
    return next(peer for peer in servers.ALL if peer.name.startswith(start))


def _nbdkit(servers: Any, *arguments: str) -> Any:
    """Another nbdkit; of an argument that names a .so file, the path is found."""

    def command(socket: str, disk_bytes: int, _file: str) -> list[str]:
        folder = next(servers.PEERS.glob("root/usr/lib/*/nbdkit"))
        found = [str(folder / argument) if argument.endswith(".so") else argument for argument in arguments]
        start = [str(servers.PEERS / "root/usr/bin/nbdkit"), "--foreground", "--unix", socket]
        return [*start, *found, str(disk_bytes)] if found else [*start, "--no-such-option"]

    return servers.Peer("nbdkit", "nbd", False, command)


def test_compare_with_peers(servers: Any) -> None:
    """All peers, beside the limit; only the kernel may stand against one, and then the report says so."""
    options = ["--peers", "--rounds", "1", "--seconds", "0.02", "--disk-mib", "16", "--json"]
    options += ["--work", "randread-4k-32", *(f"--only={word}" for word in ("qsd", "nbdkit", "limit: 2 copies, plain"))]
    command = [sys.executable, str(FOLDER.parent / "engine" / "compare.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(peer["name"].startswith(NEEDS_THE_KERNEL) and peer["why"] for peer in found["not_measured"])
    measured = {row["name"] for row in found["rows"]} - {"limit: 2 copies, plain"}
    assert measured | {peer["name"] for peer in found["not_measured"]} == {peer.name for peer in servers.ALL}


@pytest.mark.parametrize("name", ["qsd, aio=threads", "nbdkit, memory"])
def test_clients_under_sanitizers(
    servers: Any, clients: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = _peer(servers, name)
    program = tmp_path / peer.client
    options = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    clients.compile_client(program, [FOLDER / "load.c", FOLDER / f"{peer.client}.c"], options)
    monkeypatch.setattr(clients, "build", lambda _name: program)
    with servers.serving(peer, DISK_BYTES) as server:
        clients.fill(server)
        for operation in ("read", "write"):
            for load in (("random", 4096, 32), ("random", 4096, 128), ("sequential", 1 << 20, 8)):
                figures = clients.run(server, clients.Load(operation, *load), 0.05)
                assert figures.iops > 0


@pytest.mark.parametrize("name", ["qsd, aio=threads", "nbdkit, memory"])
def test_a_disk_that_nobody_wrote_has_wrong_data(servers: Any, clients: Any, name: str) -> None:
    load = clients.Load("read", "sequential", 4096, 1)
    with (
        servers.serving(_peer(servers, name), DISK_BYTES) as server,
        pytest.raises(servers.PeerError, match="the read of 4096 bytes at 0 found other data than was written"),
    ):
        clients.run(server, load, 0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plugins/nbdkit-null-plugin.so"], "found other data than was written"),
        (
            ["--filter", "filters/nbdkit-error-filter.so", "plugins/nbdkit-memory-plugin.so", "error-pwrite-rate=1"],
            "the write of 4096 bytes at [0-9]+ failed",
        ),
    ],
    ids=["loses data", "refuses to write"],
)
def test_writes_are_checked(servers: Any, clients: Any, arguments: list[str], sentence: str) -> None:
    with (
        servers.serving(_nbdkit(servers, *arguments), DISK_BYTES) as server,
        pytest.raises(servers.PeerError, match=sentence),
    ):
        clients.run(server, clients.Load("write", "random", 4096, 8), 0.02)


@pytest.mark.parametrize("name", ["nbdkit, memory", "qsd, aio=threads"])
@pytest.mark.parametrize("polls", [False, True], ids=["sleeps", "polls"])
def test_a_server_that_dies(servers: Any, clients: Any, name: str, polls: bool) -> None:
    with servers.serving(dataclasses.replace(_peer(servers, name), polls=polls), DISK_BYTES) as server:
        clients.fill(server)
        threading.Timer(0.2, os.kill, (server.pid, signal.SIGKILL)).start()
        with pytest.raises(servers.PeerError, match=r"does not answer|could not be sent|is gone|left the connection"):
            clients.run(server, clients.Load("read", "random", 4096, 4), 30.0)


def test_a_server_that_does_not_start(servers: Any) -> None:
    with (
        pytest.raises(servers.PeerError, match=r"it did not start: .*no-such-option"),
        servers.serving(_nbdkit(servers), DISK_BYTES),
    ):
        pass


def test_a_server_is_gone_afterwards(servers: Any) -> None:
    with servers.serving(_peer(servers, "qsd, aio=threads"), DISK_BYTES) as server:
        assert os.path.exists(f"/proc/{server.pid}")
    assert not os.path.exists(f"/proc/{server.pid}")
    assert not os.path.exists(server.socket)
