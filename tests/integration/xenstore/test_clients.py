"""Xen's own programs, unchanged, with our server and the real daemon: what they print and how they end is the same."""

import shlex
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pyxs
from oracle.daemon import RealXenstored, environment, lacking, program

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

DEADLINE_S = 30.0
GUEST = 5
RANDOM_S = 2
Outcome = tuple[int, bytes, bytes]

LIVE_UPDATE = b"live-update\t[-c <cmdline>] [-F] [-t <timeout>] <file>\n    Default timeout is 60 seconds.\n"
"""The one command of the real daemon, in its help, that ours does not have."""

BIG = "write " + " ".join(f"/big/a-rather-long-name-{i} {i}" for i in range(300))
"""Makes children whose names do not fit into one message."""

TREE = (
    "write /local/domain/0 '' /t/a 1 /t/a/x '' /t/a/y/z 'two words' /t/b '\\x00\\n\\t\"\\\\\\xff' relative here",
    "chmod /t/a n0 r5",
    "chmod /t/b b0 w5",
    f"write -R /t/long {'v' * 2000}",
)

# Lines of commands that all succeed, one after the other; those of the multiplexer begin with "xenstore".
SUCCEED = {
    "read": ("read /t/a", "read /t/a /t/a/y/z relative", "read -p /t/a /t/a/x", "read -s /t/a", "read /"),
    "read escapes": ("read /t/b /t/long", "read -R /t/b", "read -R /t/a /t/b", "read -p -R /t/b"),
    "ls": ("ls", "ls /t", "ls -f /t", "ls -p /t", "ls -f -p /t/a", "ls -s /t", "ls /t/a/x", "ls -f /t/b", "ls -x /t"),
    "ls relative": ("ls relative", "ls -f relative", "write relative/x 1", "ls relative", "ls -f -p relative"),
    "list": ("list /", "list /t", "list /t /t/a", "list -p /t /t/a", "list -s /t", "list /t/a/x", "list relative"),
    "many children": (
        BIG,
        "list /big",
        "list -p /big",
        "ls /big",
        "ls -f -p /big",
        "list /t /big",
        "xenstore ls",
        "rm /big",
    ),
    "exists": ("exists /t", "exists /t /t/a", "exists -s /", "exists relative"),
    "write": ("write /t/n 1", "write /t/a 2 /t/n/o/p 3", "read /t/a /t/n/o/p /t/n", "write -s /t/a ''", "write / root"),
    "write one node twice": ("write /t/n 1 /t/n 2 /t/a 3 /t/n 4", "read /t/n /t/a"),
    "write relative": ("write r/s 1", "read r/s /local/domain/0/r/s", "list /local/domain/0"),
    "write escapes": (r"write /t/n 'a\x41\101\n\t\\\r\0'", "read /t/n", "read -R /t/n", r"write /t/m 'a\' /t/o '\q\x'"),
    "write raw": (r"write -R /t/n 'a\x41\n' /t/m '\'", "read /t/n /t/m", "read -R /t/n"),
    "write much": (f"write -R /t/n {'v' * 4089}", f"write -R /t/n {'v' * 4090}", "read /t/n"),
    "write long paths": (f"write {'p' * 2048} 1", f"write /{'p' * 2047} 1", f"write /local/domain/7/{'p' * 2048} 1"),
    "rm": ("rm /t/a/x", "rm /t/a", "ls /t", "rm /t/b /t/long", "rm -s relative", "rm /nothing"),
    "rm tidies": ("rm -t /t/a/y/z", "ls -f /t", "write /u/v/w/x 1", "rm -t /u/v/w/x", "rm -t /t/a /t/b", "list /"),
    "chmod": ("chmod /t/a n5 r0 w7", "ls -f -p /t", "chmod /t/a b0", "chmod -s /t/a r0", "ls -p /", "chmod / n0 r5"),
    "chmod tree": ("chmod -r /t r0 b5", "ls -f -p /t", "chmod -r /t/a/x n0", "ls -f -p /t", "chmod /t n"),
    "chmod upwards": ("chmod -u /t/a/y/z r0 n5", "ls -f -p /", "chmod -u -r /t/a b0", "ls -f -p /"),
    "chmod special": ("chmod @releaseDomain n0 r5", "chmod @introduceDomain r0"),
    "watch": ("watch -n 1 /t", "watch -n 2 /t /t/a", "watch -n 3 relative /nothing @introduceDomain", "watch -n 0 /t"),
    "watch special": ("watch -n 2 @releaseDomain /", "watch -n 2 /t/a /t/a/x"),
    "control": ("control check", "control print word", "control print ''", "control log on", "control log off"),
    "control help": ("control help",),
    "control quota": ("control quota", f"control quota {GUEST}", "control quota 0", "control quota x"),
    "control sets quota": ("control quota set nodes 5", "control quota", "control quota-soft set memory 9"),
    "multiplexer": ("xenstore ls /t", "xenstore read -p /t/a /t/b", "xenstore write /t/n 1 /t/m 2", "xenstore list /t"),
    "multiplexer changes": ("xenstore rm -t /t/a/y/z", "xenstore chmod -r /t r0", "xenstore exists /t"),
    "multiplexer watches": ("xenstore watch -n 2 / /t",),
}

FAIL = {
    "read": ("read", "read /nothing", "read /t/a /nothing", "read /nothing /t/a", "read @nothing"),
    "read, bad path": ("read '/t/a b'", "read /t/", "read //t", "read ''", "read -x"),
    "ls": ("ls /nothing", "ls -f /nothing", "ls /t/", "ls -h"),
    "list": ("list", "list /nothing", "list /t /nothing", "list /nothing /t", "list /t/", "list @releaseDomain"),
    "exists": (
        "exists /nothing",
        "exists /t /nothing",
        "exists /nothing /t",
        "exists /t/a//x",
        "exists",
        "exists -p /t",
    ),
    "write": ("write", "write /t/a", "write /t/a 1 /t/b", "write '/t/a b' 1", "write /t/a/ 1", "write @x 1"),
    "write some": ("write /t/n 1 /t/m! 2", "write /t/n! 1 /t/m 2", "read /t/n", "read /t/m"),
    "write too much": (f"write -R /t/n {'v' * 4097}", f"write -R /t/n {'v' * 5000}"),
    "write long paths": (f"write {'p' * 3072} 1", f"write /{'p' * 3072} 1", f"write /local/domain/7/{'p' * 3072} 1"),
    "rm": ("rm", "rm /", "rm -t /", "rm /nothing/at/all", "rm /t/a /nothing/at/all", "rm '/t/!'", "rm @releaseDomain"),
    "chmod": ("chmod", "chmod /t", "chmod /nothing n0", "chmod /t x0", "chmod -r /nothing n0", "chmod -u /nothing n0"),
    "chmod, bad domain": ("chmod /t n9", "chmod '/t a' n9", "chmod /t n5 x", "chmod -r / n9"),
    "watch": ("watch", "watch -n 1 '/t a'", "watch -n 1 /t/", "watch -n 2 /t //t", "watch -n 1 ''", "watch -h"),
    "multiplexer": ("xenstore", "xenstore nothing", "xenstore read", "xenstore read /nothing", "xenstore ls -h"),
    "control": ("control", "control nothing", "control ''", "control check x", "control help x", "control print"),
    "control log": ("control log", "control log maybe", "control log on off"),
    "control quota": (
        "control quota 7",
        "control quota set nothing 1",
        "control quota set nodes x",
        "control quota 5 6",
    ),
}

# What a watch is told while these run.
CHANGES = (
    "write /t/new 1",
    "write /t/p/q/r 1 /t/a 2 /t/s 3",
    "chmod /t/b b0",
    "chmod -r /t/p n5",
    "rm /t/a",
    "rm -t /t/p/q/r",
    "write /t/s '' /nothing! 1",
    "read /t/s /t/b",
    "write /t/last 1",
)


def _start(socket_path: str, line: str) -> subprocess.Popen[bytes]:
    name, *arguments = shlex.split(line)
    command = [program(name if name in ("xenstore", "test-xenstore") else f"xenstore-{name}"), *arguments]
    env = {**environment(), "XENSTORED_PATH": socket_path}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _run(socket_path: str, line: str) -> Outcome:
    with _start(socket_path, line) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.fixture
def sockets(daemon: Any) -> Iterator[tuple[str, str]]:
    """Domain 0's sockets of our server and of the real daemon, both with domain 5 and the same tree."""
    real = RealXenstored()
    try:
        real.create_domain(GUEST).close()
        with pyxs.Client(real.socket) as client:
            client.introduce_domain(GUEST, 1, 1)
        for line in TREE:
            assert _run(daemon.path, line) == _run(real.socket, line) == (0, b"", b"")
        yield daemon.path, real.socket
    finally:
        real.close()


def _compare(sockets: tuple[str, str], line: str) -> Outcome:
    ours, (code, *texts) = (_run(path, line) for path in sockets)
    assert ours == (code, *(text.replace(LIVE_UPDATE, b"") for text in texts)), f"xenstore-{line}"
    return ours


@pytest.mark.parametrize("lines", SUCCEED.values(), ids=SUCCEED)
def test_success(sockets: tuple[str, str], lines: tuple[str, ...]) -> None:
    for line in lines:
        assert _compare(sockets, line)[0] == 0, line
    _compare(sockets, "ls -f -p /")


@pytest.mark.parametrize("lines", FAIL.values(), ids=FAIL)
def test_failure(sockets: tuple[str, str], lines: tuple[str, ...]) -> None:
    for line in lines:
        assert _compare(sockets, line)[0] != 0, line
    _compare(sockets, "ls -f -p /")


@pytest.mark.parametrize("watched", ["/t", "/t/a /t/p/q /t/last", "/t/a/y/z /t/last", "/", "/t/b /t/s/deeper /t/last"])
def test_events(sockets: tuple[str, str], watched: str) -> None:
    def watch(path: str) -> list[bytes]:
        with _start(path, f"watch {watched}") as process:
            assert process.stdout is not None
            deadline = threading.Timer(DEADLINE_S, process.kill)
            deadline.start()
            # Each watch says something at once: after that, it is there.
            lines = [process.stdout.readline() for _ in watched.split()]
            for line in CHANGES:
                _run(path, line)
            while lines[-1] not in (b"/t/last\n", b""):
                lines.append(process.stdout.readline())
            deadline.cancel()
            deadline.join()
            process.kill()
        return lines

    ours, theirs = (watch(path) for path in sockets)
    assert ours == theirs
    assert ours[-1] == b"/t/last\n"


# Xen's test of xenstore


def test_test_xenstore(daemon: Any) -> None:
    tests = [line.split(b":")[0] for line in _run(daemon.path, "test-xenstore -l")[1].splitlines()]
    assert len(tests) == 12
    code, out, err = _run(daemon.path, "test-xenstore -i 20")
    assert (code, err) == (0, b"")
    assert [line.split(b":")[0] for line in out.splitlines()] == tests


def test_test_xenstore_at_random(daemon: Any) -> None:
    """Two at once, so that their transactions meet."""
    running = [_start(daemon.path, f"test-xenstore -r {RANDOM_S}") for _ in range(2)]
    try:
        for process in running:
            assert process.communicate(timeout=DEADLINE_S) == (b"", b"")
            assert process.returncode == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()
