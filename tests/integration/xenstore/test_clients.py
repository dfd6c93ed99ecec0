"""The xenstore server with clients that others wrote: pyxs, and Debian's command line programs."""

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import pyxs

from xenblk.xenstore.client import Xenstore

DEADLINE_S = 30.0

# pyxs


def test_pyxs(daemon: Any) -> None:
    with pyxs.Client(daemon.path) as client:
        client[b"/a/b"] = b"v"
        assert (client[b"/a/b"], client.list(b"/a"), client.exists(b"/a/c")) == (b"v", [b"b"], False)
        client.set_perms(b"/a", [b"n0", b"r5"])
        assert client.get_perms(b"/a") == [b"n0", b"r5"]
        assert client.get_domain_path(5) == b"/local/domain/5"
        assert (client.is_domain_introduced(5), client.is_domain_introduced(6)) == (True, False)
        client.delete(b"/a")
        with pytest.raises(pyxs.PyXSError, match="2, "):
            client.read(b"/a")


def test_pyxs_in_threads_that_conflict(daemon: Any) -> None:
    """Four clients count to 25 each in one node; no increment is lost."""
    daemon.call(lambda core: core.write("/count", b"0"))

    def count() -> int:
        conflicts = 0
        with pyxs.Client(daemon.path) as client:
            for _ in range(25):
                while True:
                    client.transaction()
                    client[b"/count"] = str(int(client[b"/count"]) + 1).encode()
                    if client.commit():
                        break
                    conflicts += 1
        return conflicts

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(count) for _ in range(4)]:
            future.result(DEADLINE_S)
    assert daemon.call(lambda core: core.read("/count")) == b"100"


def test_pyxs_sees_a_conflict(daemon: Any) -> None:
    with pyxs.Client(daemon.path) as one, pyxs.Client(daemon.path) as other:
        one[b"/a"] = b"0"
        one.transaction()
        assert one[b"/a"] == b"0"
        other[b"/a"] = b"1"
        assert one[b"/a"] == b"0"
        one[b"/a"] = b"2"
        assert one.commit() is False
        assert one[b"/a"] == b"1"


def test_pyxs_monitors(daemon: Any) -> None:
    with pyxs.Client(daemon.path) as watcher, pyxs.Client(daemon.path) as writer, watcher.monitor() as monitor:
        monitor.watch(b"/w", b"t")
        for i in range(20):
            writer[f"/w/{i}".encode()] = b"v"
        got = [monitor.events.get(timeout=DEADLINE_S) for _ in range(21)]
        assert got == [(b"/w", b"t"), *((f"/w/{i}".encode(), b"t") for i in range(20))]


# Debian's tools


@pytest.fixture
def tool(daemon: Any) -> Callable[..., tuple[int, str]]:
    if shutil.which("xenstore-ls") is None:
        pytest.skip("these programs come with Debian's package xenstore-utils, which is not installed")
    environment = {**os.environ, "XENSTORED_PATH": daemon.path}

    def run(name: str, *arguments: str) -> tuple[int, str]:
        command = [f"xenstore-{name}", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        return done.returncode, done.stdout

    return run


def test_debian_tools(daemon: Any, tool: Callable[..., tuple[int, str]]) -> None:
    assert tool("write", "/a/b", "1", "/a/c", "two words") == (0, "")
    assert tool("read", "/a/b", "/a/c") == (0, "1\ntwo words\n")
    assert tool("list", "/a") == (0, "b\nc\n")
    assert tool("exists", "/a/b")[0] == 0
    assert tool("exists", "/a/d")[0] == 1
    assert tool("chmod", "/a/b", "n0", "r5") == (0, "")
    code, text = tool("ls", "-p", "/a")
    assert (code, text.replace(" .", "")) == (0, 'b = "1"   (n0,r5)\nc = "two words"   (n0)\n')
    assert tool("rm", "/a/b") == (0, "")
    assert tool("ls", "/a") == (0, 'c = "two words"\n')
    assert tool("read", "/a/b")[0] == 1
    assert daemon.call(lambda core: core.directory("/a")) == ["c"]


def test_debian_watch(daemon: Any, tool: Callable[..., tuple[int, str]]) -> None:
    with ThreadPoolExecutor(1) as pool, Xenstore(daemon.path) as store:
        done = pool.submit(tool, "watch", "-n", "2", "/w")
        while not done.done():
            store.write("/w/x", "1")
        code, text = done.result()
        assert (code, text.splitlines()) == (0, ["/w", "/w/x"])
