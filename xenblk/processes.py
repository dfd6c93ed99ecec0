"""Programs as processes of our own, `xenblk` commands above all, and making sure that they end.

A command is ready when it printed its first line to standard output. It ends when we stop it; when this process dies,
however it dies, the host sees the end of its lifeline and ends, and every other command ends with its host.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from xenblk.errors import XenblkError

STOP_S: Final = 5.0
"""How long a command may take to end after SIGTERM before it is killed."""


class Program:
    """A running program in a process group of its own; what it writes is kept, so it never waits for a reader.

    It is over when its process is, and what that leaves in its group is killed. `env` comes on top of this process's
    environment. OSError if it cannot be started.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()) -> None:
        self.name = Path(argv[0]).name
        self._lines: list[str] = []
        self._taken = 0
        self._silent = False
        self._buried = False
        self._last_words = ""
        self._said = threading.Condition()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with contextlib.ExitStack() as undo:
            undo.callback(self._stderr.close)
            self._process = subprocess.Popen(
                list(argv),
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=pass_fds,
                process_group=0,  # not a session: Linux shares a CPU between two sessions at a higher cost
            )
            undo.pop_all()
        self._reader = threading.Thread(target=self._listen, name=f"output of {self.name}", daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._said:
                    self._lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._silent = True
            self._said.notify_all()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def readline(self, timeout_s: float | None = None) -> str:
        """Its next line of output; XenblkError with its last words if it ended instead, TimeoutError if it is slow."""
        with self._said:
            if not self._said.wait_for(lambda: self._taken < len(self._lines) or self._silent, timeout_s):
                raise TimeoutError(f"`{self.name}` printed no line within {timeout_s:g} s")
            if self._taken < len(self._lines):
                self._taken += 1
                return self._lines[self._taken - 1]
        raise XenblkError(self._why_it_ended())

    def _why_it_ended(self) -> str:
        status = self.wait()
        lines = self.stderr().strip().splitlines()
        text = lines[-1].removeprefix("Error: ").removeprefix("xenblk: ") if lines else "it said nothing"
        return f"`{self.name}` ended with status {status}: {text}" if status < 0 or not lines else text

    def stdout(self) -> str:
        """All that it printed so far, also what `readline` returned."""
        with self._said:
            return "".join(f"{line}\n" for line in self._lines)

    def stderr(self) -> str:
        """What it wrote to standard error so far, up to `stop`."""
        if self._stderr.closed:
            return self._last_words
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0).decode(errors="replace")

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; the exit status. TimeoutError if it goes on."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"`{self.name}` did not end within {timeout_s:g} s") from None
        self._bury()
        return status

    def running(self) -> bool:
        """Whether it has not ended."""
        if self._process.poll() is None:
            return True
        self._bury()
        return False

    def _bury(self) -> None:
        # Once, as soon as its end is known: later the number may be another group's.
        if not self._buried:
            self._buried = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. After SIGSTOP all its threads stand still; without that some would run on for a while."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """SIGKILL, for tests of what a crash leaves behind."""
        self._process.kill()
        self.wait()

    def stop(self) -> None:
        """SIGTERM to its group, then SIGKILL if it does not listen; returns when it is gone."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            try:
                self.wait(STOP_S)
            except TimeoutError:
                self.kill()
        self._reader.join(1.0)  # no longer: who left the group may hold the pipe for ever
        self._last_words = self.stderr()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


class Command(Program):
    """A running `xenblk` command. XenblkError with its own sentence when it fails."""

    def __init__(self, args: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        super().__init__([sys.executable, "-m", "xenblk", *args], pass_fds=pass_fds)
        self.name = f"xenblk {args[0]}"


class HostProcess:
    """`xenblk host` in a run directory of its own, which is gone when the host is."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.gettempdir()) / f"xenblk-{os.getpid()}-{os.urandom(4).hex()}"
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
