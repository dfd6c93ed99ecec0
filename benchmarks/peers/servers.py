"""The servers of the peers: qemu-storage-daemon with a vhost-user-blk export, and nbdkit, each with a disk in memory.

A disk that is a file is a memfd, which the server opens through its own /proc/self/fd: shared memory as a file in
/dev/shm is, and nothing is left of it however this process ends. The servers are killed when this process dies.
`benchmarks/peers/fetch.sh` puts the programs into build/peers.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PEERS: Final = ROOT / "build" / "peers"
START_S: Final = 15.0
STOP_S: Final = 5.0
LISTENING: Final = 0x10000  # __SO_ACCEPTCON
POLL_NS: Final = 32768


class PeerError(Exception):
    """A peer cannot be measured; says why."""


@dataclass(frozen=True)
class Peer:
    """A server and how it is used.

    `name` is what tables call it; `client` the C program that loads it, which spins if it `polls`. `command` makes the
    server's command line of the socket's path, the disk's size in bytes and the path of a file of that size.
    """

    name: str
    client: str
    polls: bool
    command: Callable[[str, int, str], list[str]]


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, what its disk is called if it has several, and its process."""

    peer: Peer
    socket: str
    export: str
    pid: int


def lacking() -> str | None:
    """What is missing for any peer, None if nothing is."""
    reason = PEERS / "lacking"
    if reason.exists():
        return f"the peers are not at hand: {reason.read_text().strip()}"
    return None if (PEERS / "ready").exists() else "the peers are not at hand: run `make peers`"


def libraries() -> list[str]:
    """The folders of the peers' shared libraries."""
    return [str(path) for folder in ("usr/lib", "lib") for path in (PEERS / "root" / folder).glob("*-linux-gnu")]


def environment() -> dict[str, str]:
    """What the peers' programs, and clients that use their libraries, need to find these."""
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries())}


def _qsd(aio: str) -> Callable[[str, int, str], list[str]]:
    # QEMU has aio=native for direct I/O only, which files in memory take since Linux 6.6: io_submit then does the copy.
    direct = "on" if aio == "native" else "off"
    disk = f"driver=file,node-name=disk,aio={aio},cache.direct={direct},locking=off"
    export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io,addr.type=unix"

    def command(socket: str, _disk_bytes: int, file: str) -> list[str]:
        program = str(PEERS / "root/usr/bin/qemu-storage-daemon")
        iothread = ["--object", f"iothread,id=io,poll-max-ns={POLL_NS}"]
        return [program, *iothread, "--blockdev", f"{disk},filename={file}", "--export", f"{export},addr.path={socket}"]

    return command


def _nbdkit(plugin: str, argument: str) -> Callable[[str, int, str], list[str]]:
    def command(socket: str, disk_bytes: int, _file: str) -> list[str]:
        path = next(PEERS.glob(f"root/usr/lib/*/nbdkit/plugins/nbdkit-{plugin}-plugin.so"))
        start = [str(PEERS / "root/usr/bin/nbdkit"), "--foreground", "--threads", "1", "--unix", socket]
        return [*start, str(path), argument.format(disk_bytes=disk_bytes)]

    return command


ALL: Final = (
    Peer("qsd, aio=native, client polls", "vhost_user", True, _qsd("native")),
    Peer("qsd, aio=native, client sleeps", "vhost_user", False, _qsd("native")),
    Peer("qsd, aio=io_uring, client polls", "vhost_user", True, _qsd("io_uring")),
    Peer("qsd, aio=threads, client polls", "vhost_user", True, _qsd("threads")),
    Peer("nbdkit, memory", "nbd", False, _nbdkit("memory", "{disk_bytes}")),
    Peer("nbdkit, file", "nbd", False, _nbdkit("file", "dir=/proc/self/fd")),
)


@contextlib.contextmanager
def serving(peer: Peer, disk_bytes: int, cpus: Collection[int] | None = None) -> Iterator[Server]:
    """A server of the peer with a disk of so many bytes, all its threads on `cpus`, None for anywhere.

    PeerError if it does not start. It has ended when this is left.
    """
    if reason := lacking():
        raise PeerError(reason)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        disk = os.memfd_create("disk")
        stack.callback(os.close, disk)
        os.truncate(disk, disk_bytes)
        with (folder / "output").open("wb") as output:
            command = peer.command(str(folder / "socket"), disk_bytes, f"/proc/self/fd/{disk}")
            process = _start(command, disk, output.fileno(), cpus)
        stack.callback(_stop, process)
        _await_start(process, folder)
        yield Server(peer, str(folder / "socket"), str(disk), process.pid)


def _start(command: list[str], disk: int, output: int, cpus: Collection[int] | None) -> subprocess.Popen[bytes]:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own if cpus is None else cpus)
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=environment(),
            pass_fds=[disk],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    except OSError as error:
        raise PeerError(str(error)) from error
    finally:
        os.sched_setaffinity(0, own)


def _await_start(process: subprocess.Popen[bytes], folder: Path) -> None:
    end_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end_s:
        if _listens(str(folder / "socket")):
            return
        time.sleep(0.01)
    lines = (folder / "output").read_text(errors="replace").strip().splitlines()
    ended = f"it ended with {process.poll()}" if process.poll() is not None else f"not within {START_S:.0f} seconds"
    raise PeerError(f"it did not start: {lines[0] if lines else ended}")


def _listens(path: str) -> bool:
    """Whether there is a listening socket: to try it would count as the one client that some servers have."""
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(fields[-1] == path and int(fields[3], 16) & LISTENING for fields in sockets)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
