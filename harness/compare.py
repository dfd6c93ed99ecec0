"""The main job: one workload through one way of moving data, as three processes, and what it cost.

For each mode a host, a backend with that mode's parameters and a frontend are started; the frontend runs the workload
(`xenblk bench`) and prints its result; then the disk is detached, and the counters must have come to rest: everything
that was mapped is unmapped.

    persistent   the frontend copies through a pool of pages whose grants the backend keeps mapped
    map          every request's own pages are mapped and unmapped
    bounded      persistent, with a limit below the pages in flight: hits up to it, map and unmap beyond it
    copy         the backend has Xen copy, and maps nothing
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from xenblk.abi import DOM0, PAGE_SIZE, Domid
from xenblk.counters import Counters
from xenblk.emulated.control import ControlClient
from xenblk.emulated.rundir import RunDirectory
from xenblk.engines import ENGINES, POLL_US
from xenblk.errors import XenblkError
from xenblk.harness.result import BenchResult
from xenblk.harness.workload import Job
from xenblk.processes import Command, HostProcess
from xenblk.toolstack import attach, detach
from xenblk.vdev import parse_vdev
from xenblk.xenstore.client import Xenstore

MODES: Final = ("persistent", "map", "bounded", "copy")
_VDEV: Final = "xvda"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: a disk (absolute path or memory:SIZE), a workload, whether it writes; `engine` and `poll_us` of
    both ends, the CPUs that each may run on, and whether the backend opens an image with O_DIRECT.
    """

    disk: str
    job: Job
    writes: bool
    max_persistent_grants: int | None = None
    engine: str = ENGINES[0]
    poll_us: int = POLL_US
    pin_frontend: str | None = None
    pin_backend: str | None = None
    direct: bool = False

    @property
    def bounded_limit(self) -> int:
        """The limit of a ring in bounded mode: half of the pages that are in flight there, unless it was given."""
        if self.max_persistent_grants is not None:
            return self.max_persistent_grants
        return max(1, self.job.iodepth * -(-self.job.bs // PAGE_SIZE) // 2)

    def backend_options(self, mode: str) -> list[str]:
        """The options of `xenblk backend` that make a mode."""
        options = {
            "persistent": [],
            "map": ["--no-feature-persistent"],
            "bounded": ["--max-persistent-grants", str(self.bounded_limit)],
            "copy": ["--grant-copy"],
        }[mode]
        rings = ["--max-queues", str(self.job.numjobs)] if self.job.numjobs > 1 else []
        return [*options, *rings, *self._engine_options(self.pin_backend), *(["--direct"] if self.direct else [])]

    def frontend_options(self) -> list[str]:
        """The options of `xenblk bench` that are the same in every mode."""
        return self._engine_options(self.pin_frontend)

    def _engine_options(self, pin: str | None) -> list[str]:
        return ["--engine", self.engine, "--poll-us", str(self.poll_us), *(["--pin", pin] if pin else [])]


def run_mode(comparison: Comparison, mode: str, progress: Callable[[int, int], None]) -> BenchResult:
    """Run the workload in one mode. XenblkError with the sentence of whichever process failed."""
    with HostProcess() as host:
        directory = RunDirectory(host.run_dir)
        options = ["--run-dir", str(host.run_dir), *comparison.backend_options(mode)]
        with Command(["backend", *options]) as backend, Xenstore(str(directory.xenstore(DOM0))) as store:
            backend.readline()
            domid = _create_domain(directory)
            attach(store, domid, parse_vdev(_VDEV), comparison.disk, "w" if comparison.writes else "r")
            with Command(_bench_args(comparison, mode, host.run_dir, domid, backend.pid)) as frontend:
                result = _follow(frontend, progress)
            detach(store, domid, parse_vdev(_VDEV))
            _check_at_rest(directory, domid)
    return result


def _create_domain(directory: RunDirectory) -> Domid:
    control = ControlClient(directory.control)
    try:
        return Domid(control.call("create", domid=None)[0]["domid"])
    finally:
        control.close()


def _bench_args(comparison: Comparison, mode: str, run_dir: Path, domid: Domid, backend_pid: int) -> list[str]:
    job = comparison.job
    amount = ["--io-size", str(job.io_size)] if job.io_size is not None else ["--runtime", str(job.runtime_s)]
    return [
        "bench",
        *("--run-dir", str(run_dir), "--domid", str(domid), "--vdev", _VDEV),
        *("--rw", job.rw, "--bs", str(job.bs), "--iodepth", str(job.iodepth), *amount),
        *("--numjobs", str(job.numjobs)),
        *("--seed", str(job.seed), "--rwmixread", str(job.rwmixread), "--fsync", str(job.fsync)),
        *("--mode-name", mode, "--backend-pid", str(backend_pid), "--json", "--progress-json"),
        *("--verify-file", comparison.disk),
        *comparison.frontend_options(),
    ]


def _follow(frontend: Command, progress: Callable[[int, int], None]) -> BenchResult:
    while True:
        line: dict[str, Any] = json.loads(frontend.readline())
        if "done" not in line:
            break
        progress(line["done"], line["total"])
    if frontend.wait() != 0:
        frontend.readline()  # raises with what it said
    return BenchResult.from_dict(line)


def _check_at_rest(directory: RunDirectory, domid: Domid) -> None:
    for path in directory.counters.glob(f"vbd-{DOM0}-{domid}-{parse_vdev(_VDEV)}-*.back"):
        _check_ring_at_rest(path)


def _check_ring_at_rest(path: Path) -> None:
    counters = Counters.open(path)
    counts = counters.snapshot()
    counters.close()
    if counts["map_pages"] != counts["unmap_pages"] or counts["persistent_current"]:
        raise XenblkError(
            f"after the disk was detached {counts['map_pages']} pages had been mapped and {counts['unmap_pages']} "
            f"unmapped, and {counts['persistent_current']} were kept"
        )
