"""The two daemons side by side: ours and the real one, each a process of its own, on a CPU of its own.

The load runs on another CPU, where there are two. Whoever measures calls `move_aside` first; what it starts afterwards
stays on its CPU, except the servers.
"""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Protocol

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from oracle.daemon import RealXenstored, environment, lacking, program

ROOT: Final = Path(__file__).resolve().parents[2]
NAMES: Final = ("ours", "real")
START_S: Final = 30.0
TOOL_S: Final = 120.0


class Daemon(Protocol):
    """A running xenstored; `socket` is where domain 0 connects."""

    socket: str
    process: subprocess.Popen[bytes]

    def close(self) -> None:
        """End it."""


class OurXenstored:
    """Our daemon, running; the counterpart of RealXenstored."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xenblk-"))
        self.socket = str(self.folder / "socket")
        command = [sys.executable, "-m", "xenblk", "xenstored", "--socket", self.socket]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(self.socket)
                return
            time.sleep(0.01)
        self.close()
        raise click.ClickException(f"our xenstored did not start: {self.process.returncode}")

    def close(self) -> None:
        """End the daemon."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(name: str) -> Daemon:
    """The daemon of that name, on the servers' CPU."""
    daemon: Daemon = OurXenstored() if name == "ours" else RealXenstored()
    for thread in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), _SERVER_CPUS)
    return daemon


def run_tool(socket_path: str, name: str, *arguments: str) -> bytes:
    """What one of Xen's own programs says to a daemon's store."""
    env = {**environment(), "XENSTORED_PATH": socket_path}
    done = subprocess.run([program(name), *arguments], env=env, stdout=subprocess.PIPE, timeout=TOOL_S, check=False)
    if done.returncode:
        raise click.ClickException(f"{name} ended with {done.returncode}")
    return done.stdout


def in_turn(round_number: int) -> tuple[str, ...]:
    """The daemons' names; the one that goes first changes from round to round."""
    return NAMES if round_number % 2 == 0 else NAMES[::-1]


_CPUS: Final = sorted(os.sched_getaffinity(0))
_SERVER_CPUS: Final = {_CPUS[0]}


def move_aside() -> None:
    """Leave the servers' CPU to them, where there is another one. ClickException if the real daemon is not there."""
    if reason := lacking():
        raise click.ClickException(reason)
    os.sched_setaffinity(0, {_CPUS[-1]})


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {"cpus": len(_CPUS), "pinned_apart": len(_CPUS) > 1, "python": platform.python_version()}


def machine_text() -> str:
    """The same for people."""
    cpus = "1 CPU for all" if len(_CPUS) == 1 else f"{len(_CPUS)} CPUs, server and load on one each"
    return f"{cpus}; Python {platform.python_version()}"
