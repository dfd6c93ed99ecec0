"""Starting `xenblk` commands as processes of our own, and making sure that they end.

A command is ready when it printed its first line to standard output. It ends when we stop it; when this process dies,
however it dies, the host sees the end of its lifeline and ends, and every other command ends with its host.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from xenblk.errors import XenblkError

STOP_S: Final = 5.0
"""How long a command may take to end after SIGTERM before it is killed."""


class Command:
    """A running `xenblk` command. `pid`, `readline` and `stop`; XenblkError with its own sentence when it fails."""

    def __init__(self, args: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        self._args = list(args)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xenblk", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def readline(self) -> str:
        """Its next line of output; XenblkError if it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise XenblkError(self._why_it_ended())
        return line.decode().rstrip("\n")

    def _why_it_ended(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        text = lines[-1].removeprefix("Error: ").removeprefix("xenblk: ") if lines else "it said nothing"
        return f"`xenblk {self._args[0]}` ended with status {status}: {text}" if status < 0 or not lines else text

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, for tests of what a crash leaves behind."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it does not listen; returns when it is gone."""
        if self.running():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


class HostProcess:
    """`xenblk host` in a run directory of its own, which is gone when the host is."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.gettempdir()) / f"xenblk-{os.getpid()}-{secrets.token_hex(4)}"
        end, self._lifeline = os.pipe()
        try:
            self.command = Command(["host", "--run-dir", str(self.run_dir), "--lifeline", str(end)], [end])
        finally:
            os.close(end)
        try:
            self.command.readline()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the host and whatever depends on it."""
        self.command.stop()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def __enter__(self) -> "HostProcess":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def stop_on_lifeline(fd: int, stop: Callable[[], None]) -> None:
    """Call `stop` when the descriptor reaches its end, that is when whoever holds the other end is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(fd, 1)
        stop()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
