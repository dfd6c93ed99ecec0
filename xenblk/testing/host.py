"""An emulated Xen for one test: what the test starts or attaches in it is gone when the test is over."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xenblk.abi import DOM0, Domid
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.disk import MEMORY_PREFIX
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import ENVIRONMENT, RunDirectory
from xenblk.engines import ENGINES
from xenblk.errors import XenblkError
from xenblk.processes import Command, HostProcess, Program
from xenblk.testing.vbd import AttachedVbd
from xenblk.toolstack import attach
from xenblk.vdev import parse_vdev
from xenblk.xenstore.client import Xenstore

if TYPE_CHECKING:
    from xenblk.harness.doubles.frontend_thread import FrontendThread

PATIENCE_S: Final = 20.0

_TIED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which outlives the exec
if os.getppid() == int(sys.argv[1]):
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as e:
        sys.exit(f"{sys.argv[2]} cannot be started: {e.strerror}")
"""


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that must come; AssertionError says what did not, and how long it takes is not the point."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.005)


class XenHost:
    """An emulated Xen in the hands of one test: `run_dir` is its run directory, `store` its xenstore as domain 0.

    `engine` is that of our own frontends and backends, unless they are asked for another. `close` ends, last one first,
    every frontend and program, destroys every domain and removes every device.
    """

    def __init__(self, process: HostProcess, engine: str = ENGINES[0]) -> None:
        self.run_dir = process.run_dir
        self.pid = process.command.pid
        self.engine = engine
        self.directory = RunDirectory(self.run_dir)
        self.vbds: list[AttachedVbd] = []
        self.programs: list[Program] = []
        with contextlib.ExitStack() as undo:
            self.control = ControlClient(self.directory.control)
            undo.callback(self.control.close)
            self.store = undo.enter_context(Xenstore(str(self.directory.xenstore(DOM0))))
            undo.callback(self._remove_devices)
            self._undo = undo.pop_all()

    # Programs

    @property
    def environment(self) -> dict[str, str]:
        """What tells a program which Xen this is: xenblk's own variable, and that of Xen's tools and libxenstore."""
        return {ENVIRONMENT: str(self.run_dir), "XENSTORED_RUNDIR": str(self.run_dir)}

    def run(self, command: str | Sequence[str | os.PathLike[str]]) -> Program:
        """Start a program, or a shell's command, with this Xen in its environment; it ends before this host does.

        Returns at once: what the program prints when it is ready, `readline` of what this returns waits for.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else [os.fspath(word) for word in command]
        tied = [sys.executable, "-S", "-c", _TIED, str(os.getpid()), *argv]
        return self._started(Program(tied, self.environment), command if isinstance(command, str) else shlex.join(argv))

    def backend(self, *options: str) -> Program:
        """`xenblk backend` with more options of its command line; returns when it is ready."""
        args = ["backend", "--run-dir", str(self.run_dir), "--engine", self.engine, *options]
        backend = self._started(Command(args), shlex.join(["xenblk", "backend", *options]))
        backend.readline(PATIENCE_S)
        return backend

    def backend_double(self, name: str) -> Program:
        """A double of a known backend, as a process: linux, qemu, tapdisk or freebsd; returns when it is ready."""
        backend = self.run([sys.executable, "-m", "xenblk.harness.doubles", name])
        backend.name = f"double of {name}"
        backend.readline(PATIENCE_S)
        return backend

    def _started(self, program: Program, name: str) -> Program:
        program.name = name
        self._undo.enter_context(program)
        self.programs.append(program)
        return program

    # Disks

    def attach(
        self,
        disk: int | str | os.PathLike[str] = "memory:16M",
        mode: str = "w",
        vdev: str = "xvda",
        *,
        domid: Domid | None = None,
        **options: Any,
    ) -> AttachedVbd:
        """Give a new domain, or domain `domid`, a disk: so many bytes of memory, memory:SIZE, or the image at a path.

        Waits for the backend to write `hotplug-status`. Further options are those of toolstack.attach.
        """
        if domid is None:
            domid = Domid(self.control.call("create", domid=None)[0]["domid"])
        vbd = AttachedVbd(self.store, self.control, self.directory, domid, parse_vdev(vdev))
        self.vbds.append(vbd)
        attach(self.store, domid, vbd.handle, _params(disk), mode, **options)
        return vbd

    def boot(self, domid: Domid) -> EmulatedPlatform:
        """This process as the kernel of a domain; the domain ends with it."""
        platform = EmulatedPlatform(self.run_dir, domid)
        self._undo.callback(platform.close)
        return platform

    def frontend(self, vbd: AttachedVbd, **options: Any) -> Blkfront:
        """A connected frontend in this process; the options are Blkfront's."""
        frontend = Blkfront(self.boot(vbd.domid), vbd.handle, **{"engine": self.engine, **options})
        self._undo.callback(frontend.close)
        frontend.connect()
        return frontend

    def frontend_double(self, vbd: AttachedVbd, name: str, **options: Any) -> "FrontendThread":
        """A double of a known frontend, connected, in a thread: linux, edk2, mini-os, unikraft, netbsd or xenvbd.

        The options are those of Blkfront that the original has.
        """
        from xenblk.testing.doubles import connect_double  # noqa: PLC0415 - few tests want a double

        return connect_double(name, vbd, lambda: self.boot(vbd.domid), self._undo, options)

    def disk(self, vbd: AttachedVbd, **options: Any) -> VirtualDisk:
        """A connected disk in this process; the options are Blkfront's."""
        return VirtualDisk(self.frontend(vbd, **options))

    # The end

    def _remove_devices(self) -> None:
        with contextlib.suppress(XenblkError):  # of a host that is dead nothing is left
            for domain in self.control.call("status")[0]["domains"]:
                if domain["state"] != "dying":
                    self.control.call("destroy", domid=domain["domid"])
            for path in ("/local/domain/0/backend", "/local/domain/0/error", "/local/domain/0/data"):
                if self.store.exists(path):
                    self.store.rm(path)

    def close(self) -> None:
        """End everything that was started in this Xen."""
        self._undo.close()

    def __enter__(self) -> "XenHost":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _params(disk: int | str | os.PathLike[str]) -> str:
    if isinstance(disk, int):
        return f"{MEMORY_PREFIX}{disk}"
    name = os.fspath(disk)
    return name if name.startswith(MEMORY_PREFIX) else str(Path(name).absolute())
