"""The emulated machine: QEMU running Xen, and a root shell in domain 0.

Xen and domain 0's kernel write to the first serial line, into a file. Commands go over the second: "NUMBER SECONDS
BYTES", filled up to 40 bytes, and so many bytes, answered by the command's output and "\\001NUMBER STATUS". Files go
through a folder of this machine that is /lab/shared inside (9p over virtio), where what guests write arrives, too.
"""

import contextlib
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# QEMU's faults: with SMAP domain 0 dies at its first return to user mode, with XSAVE guests see a wrong byte at times.
CPU = "max,-smap,-xsave"
XEN = "com1=115200,8n1 console=com1 dom0_mem=1024M,max:1024M dom0_max_vcpus=1 noreboot"
LINUX = "console=hvc0 loglevel=4 panic=-1"
# A machine that dies says so; it may be slow, where others need the CPU too.
BOOT_S = 600
COMMAND_S = 300
DEATHS = ("Panic on CPU", "Kernel panic", "Domain 0 crashed", "Domain 0 shutdown", "lab: domain 0 failed")
CONSOLE_LINES = 30
HEADER_BYTES = 40
# What a pipe holds, and the shell reads it from one.
COMMAND_BYTES_MAX = 60000


class LabError(Exception):
    """The machine did not do what it was asked to; says what, with the console's last lines if they matter."""


@dataclass(frozen=True)
class Completed:
    """A command that ran to its end in domain 0, or was ended when its time was over: status 124."""

    command: str
    status: int
    output: str


class Machine:
    """One boot of the machine in `folder` (lab.images made it). `archives` are unpacked over domain 0's files.

    A context manager: QEMU is gone after it, whatever happened. Logs are in `folder`/log/`name`: xen.log, and
    shared/guest-NAME.log for what a guest wrote. Not for use by two threads at once.
    """

    def __init__(
        self, folder: Path, archives: Sequence[Path] = (), name: str = "machine", memory_mb: int = 2048
    ) -> None:
        self.log_folder = folder / "log" / name
        self.shared = self.log_folder / "shared"
        self._folder = folder
        self._archives = archives
        self._memory_mb = memory_mb
        self._numbers = iter(range(1, 1 << 30))
        self._received = b""
        self._qemu: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        shutil.rmtree(self.log_folder, ignore_errors=True)
        self.shared.mkdir(parents=True)
        try:
            self._start()
            self._answer("ready", time.monotonic() + BOOT_S)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """QEMU's."""
        assert self._qemu is not None
        return self._qemu.pid

    def run(self, command: str, timeout_s: float = COMMAND_S) -> Completed:
        """Run a line, or many, of bash as root in domain 0. Both outputs come back as one; its input is empty.

        A command that leaves a process behind redirects its output, which is the serial line. A command still running
        after timeout_s is killed: status 124. LabError if the machine itself does not answer.
        """
        number = str(next(self._numbers))
        text = command.encode() + b"\n"
        if len(text) > COMMAND_BYTES_MAX:
            raise ValueError(f"a command has at most {COMMAND_BYTES_MAX} bytes, not {len(text)}: put() it, then run it")
        self._send(f"{number} {timeout_s} {len(text)}".ljust(HEADER_BYTES).encode() + text)
        # The clock inside is emulated, on a shared CPU: who ends the command there must be given the time to do it.
        output, status = self._answer(number, time.monotonic() + 2 * timeout_s + 30)
        return Completed(command, status, output)

    def check(self, command: str, timeout_s: float = COMMAND_S) -> str:
        """What `run` does, and the output; LabError if the status is not 0."""
        done = self.run(command, timeout_s)
        if done.status != 0:
            raise LabError(f"in domain 0, status {done.status} from: {command}\n{done.output}")
        return done.output

    def put(self, path: str, content: bytes, permissions: int = 0o644) -> None:
        """Make or replace a file in domain 0."""
        (self.shared / "put").write_bytes(content)
        self.check(f"mkdir -p $(dirname '{path}') && install -m {permissions:o} /lab/shared/put '{path}'")

    def get(self, path: str) -> bytes:
        """A file of domain 0."""
        self.check(f"cat '{path}' >/lab/shared/got")
        return (self.shared / "got").read_bytes()

    def console(self) -> str:
        """What Xen and domain 0's kernel have written so far."""
        path = self.log_folder / "xen.log"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    def look_for_death(self) -> None:
        """LabError if Xen or domain 0 has said that it is over."""
        text = self.console()
        for death in DEATHS:
            if death in text:
                raise self._dead(f"the machine has died: {death}")

    def kill(self) -> None:
        """End QEMU at once. No more than once matters."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            for pipe in (self._qemu.stdin, self._qemu.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._qemu = None
        (self.log_folder / "initrd").unlink(missing_ok=True)

    def _start(self) -> None:
        initrd = self.log_folder / "initrd"
        with open(initrd, "wb") as whole:
            for part in (self._folder / "boot/dom0.cpio", *self._archives):
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)
        program, environment = _qemu(self._folder)
        words = [*program, "-accel", "tcg,thread=multi", "-cpu", CPU, "-m", str(self._memory_mb), "-nodefaults"]
        words += ["-display", "none", "-no-reboot", "-net", "none"]
        words += ["-serial", f"file:{self.log_folder / 'xen.log'}"]
        words += ["-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell"]
        words += ["-virtfs", f"local,path={self.shared},mount_tag=shared,security_model=none"]
        words += ["-virtfs", f"local,path={self._folder / 'boot'},mount_tag=boot,security_model=none,readonly=on"]
        words += ["-kernel", str(self._folder / "boot/xen"), "-append", XEN]
        words += ["-initrd", f"{self._folder / 'boot/vmlinux'} {LINUX},{initrd}"]
        with open(self.log_folder / "qemu.log", "wb") as errors:
            pipe = subprocess.PIPE
            # QEMU dies with us even if we are killed.
            words = ["setpriv", "--pdeathsig", "KILL", *words]
            self._qemu = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, env=environment)
        assert self._qemu.stdout is not None
        os.set_blocking(self._qemu.stdout.fileno(), False)

    def _send(self, line: bytes) -> None:
        assert self._qemu is not None, "the machine is not running"
        assert self._qemu.stdin is not None
        try:
            self._qemu.stdin.write(line)
            self._qemu.stdin.flush()
        except BrokenPipeError:
            raise self._dead("QEMU has ended") from None

    def _answer(self, number: str, deadline_s: float) -> tuple[str, int]:
        mark = b"\x01" + number.encode() + b" "
        for _ in self._reads(deadline_s):
            before, found, after = self._received.partition(mark)
            status, newline, rest = after.partition(b"\n")
            if found and newline:
                self._received = rest
                return before.decode(errors="replace").removesuffix("\n"), int(status)
        raise self._dead(f"domain 0's shell did not answer in time, command {number}")

    def _reads(self, deadline_s: float) -> Iterator[None]:
        """Turns of: what has come by now is in _received. Ends at the deadline; LabError when the machine has died."""
        assert self._qemu is not None, "the machine is not running"
        assert self._qemu.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._qemu.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline_s:
                if not selector.select(timeout=1):
                    self.look_for_death()
                    continue
                chunk = self._qemu.stdout.read()
                if chunk == b"":
                    raise self._dead("QEMU has ended")
                self._received += chunk or b""
                yield

    def _dead(self, what: str) -> LabError:
        lines = [line for line in self.console().splitlines() if line][-CONSOLE_LINES:]
        qemu = (self.log_folder / "qemu.log").read_text(errors="replace")
        shell = self._received.decode(errors="replace")[-1000:]
        last = [
            f"{what}; QEMU said: {qemu or 'nothing'}",
            f"the shell said: {shell or 'nothing'}",
            "the console:",
            *lines,
        ]
        return LabError("\n".join(last))


def _qemu(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The program with its first words, and its environment: this machine's own, or the one that was fetched."""
    found = shutil.which("qemu-system-x86_64")
    if found:
        return [found], dict(os.environ)
    root = folder / "machine/usr"
    if not (root / "bin/qemu-system-x86_64").exists():
        raise LabError(f"there is no QEMU, neither installed nor in {folder}: run `make xen-lab`")
    shares = [word for share in ("share/qemu", "share/seabios") for word in ("-L", str(root / share))]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(root / "lib/x86_64-linux-gnu")}
    return [str(root / "bin/qemu-system-x86_64"), *shares], environment
