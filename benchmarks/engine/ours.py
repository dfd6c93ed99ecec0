"""xenblk as a contender: a host and a backend for each way of moving data, the frontend in this process."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from programs import Figures

from xenblk.abi import DOM0, Domid
from xenblk.blkfront import Blkfront
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.harness import Job, run_job
from xenblk.harness.cpu import process_cpu_s
from xenblk.harness.oracle import Initial
from xenblk.harness.result import BenchResult
from xenblk.processes import Command, HostProcess
from xenblk.toolstack import attach
from xenblk.vdev import parse_vdev
from xenblk.xenstore.client import Xenstore

SEED: Final = 1
CHECKED_BYTES: Final = 8 << 20
_XVDA: Final = parse_vdev("xvda")


@dataclass(frozen=True)
class Mode:
    """A way of moving data: options of the backend and of the frontend."""

    name: str
    backend: tuple[str, ...] = ()
    persistent: bool = True
    engine: str = "native"


PERSISTENT: Final = Mode("persistent")
MAP: Final = Mode("map/unmap", ("--no-feature-persistent",), persistent=False)
COPY: Final = Mode("grant copy", ("--grant-copy",), persistent=False)
PYTHON: Final = Mode("persistent, Python engine", ("--engine", "python"), engine="python")


def bounded(depth: int, block_bytes: int) -> Mode:
    """Persistent, with room for half of the pages that are in flight."""
    return Mode("bounded", ("--max-persistent-grants", str(max(1, depth * (block_bytes // 4096) // 2))))


@dataclass(frozen=True)
class Work:
    """What to run: an operation ("read" or "write"), an order ("random" or "sequential"), so many at a time."""

    op: str
    order: str
    block_bytes: int
    depth: int


class Ours:
    """One disk, connected. `disk` is memory:SIZE or a path; the ends run on the CPUs `cpus`, frontend first."""

    def __init__(
        self, stack: contextlib.ExitStack, mode: Mode, disk: str, cpus: tuple[int, int], poll_us: int, name: str
    ) -> None:
        self.name = name
        self._mode = mode
        self._cpus = cpus
        self._written_bytes = 0
        host = stack.enter_context(HostProcess())
        directory = RunDirectory(host.run_dir)
        options = ["--pin", str(cpus[1]), "--poll-us", str(poll_us), *mode.backend]
        self._backend = stack.enter_context(Command(["backend", "--run-dir", str(host.run_dir), *options]))
        self._backend.readline()
        self._connect(stack, host.run_dir, directory, disk, poll_us)

    def _connect(
        self, stack: contextlib.ExitStack, run_dir: Path, directory: RunDirectory, disk: str, poll_us: int
    ) -> None:
        control = ControlClient(directory.control)
        domid = Domid(control.call("create", domid=None)[0]["domid"])
        control.close()
        with Xenstore(str(directory.xenstore(DOM0))) as store:
            attach(store, domid, _XVDA, disk, "w")
        platform = EmulatedPlatform(run_dir, domid)
        stack.callback(platform.close)
        self._frontend = Blkfront(
            platform, _XVDA, feature_persistent=self._mode.persistent, engine=self._mode.engine, poll_us=poll_us
        )
        stack.callback(self._frontend.close)
        self._frontend.connect()

    def prepare(self, work: Work) -> bool:
        """Write all of the disk, so that no read finds pages that nobody touched."""
        if self._written_bytes != work.block_bytes:
            depth = min(8, self._frontend.size // work.block_bytes)
            size = self._frontend.size // work.block_bytes * work.block_bytes
            self._run(Job("write", work.block_bytes, depth, SEED, io_size=size))
            self._written_bytes = work.block_bytes
        return True

    def run(self, work: Work, seconds: float) -> Figures:
        """A tenth before does not count, as with the limit. What is read is not looked at while time counts: a part of
        the disk is read and checked afterwards.
        """
        with _on_cpu(self._cpus[0]):
            self._run(_job(work, runtime_s=seconds / 10))
            found = self._run(_job(work, runtime_s=seconds))
        if work.op == "write":
            self._written_bytes = 0
        elif self._mode.engine == "native":
            io_size = min(self._frontend.size, CHECKED_BYTES) // work.block_bytes * work.block_bytes
            self._run(_job(work, io_size=io_size, verify=True), initial="written")
        assert found.backend_cpu_s is not None
        cpu_s = found.frontend_cpu_s + found.backend_cpu_s
        return Figures(self.name, found.iops, found.p50_us, found.p99_us, cpu_s / max(1, found.ios) * 1e6)

    def _run(self, job: Job, initial: Initial = "unknown") -> BenchResult:
        cpu_s = partial(process_cpu_s, self._backend.pid)
        return run_job(self._frontend, job, initial=initial, audit=False, backend_cpu_s=cpu_s)


def _job(work: Work, runtime_s: float | None = None, io_size: int | None = None, verify: bool = False) -> Job:
    rw = ("rand" if work.order == "random" else "") + work.op
    return Job(rw, work.block_bytes, work.depth, SEED, io_size=io_size, runtime_s=runtime_s, verify=verify)


@contextlib.contextmanager
def _on_cpu(cpu: int) -> Iterator[None]:
    """This thread alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
