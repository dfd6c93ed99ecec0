"""One benchmark: runs a job on a frontend, measures it, and afterwards audits the disk.

measured:    the job's operations, then a flush if it writes, so that what was written counts as durable
afterwards:  the audit reads every block that the job touched and checks it once more
"""

import contextlib
import errno
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from xenblk.blkfront import Blkfront
from xenblk.errors import UsageError
from xenblk.harness.frontend import Frontend
from xenblk.harness.native_jobs import NativeJobs
from xenblk.harness.native_load import NativeLoad
from xenblk.harness.oracle import Initial
from xenblk.harness.python_load import PythonLoad
from xenblk.harness.result import LEVELS, BenchResult, count_requests
from xenblk.harness.workload import Job

Progress = Callable[[int, int], None]

_STALL_TIMEOUT_S: Final = 60.0
_PROGRESS_INTERVAL_S: Final = 0.1


class _Load(Protocol):
    """A job as it is run, in C or in Python."""

    @property
    def nr_ios(self) -> int: ...
    def run(self, after_poll: Callable[[], None]) -> None: ...
    def flush(self) -> None: ...
    def audit(self) -> None: ...
    def percentiles_ns(self, *percents: float) -> list[int]: ...


def run_job(
    frontend: Frontend,
    job: Job,
    *,
    mode: str = "",
    progress: Progress | None = None,
    initial: Initial = "zeros",
    audit: bool = True,
    backend_counters: Callable[[], Mapping[str, int]] = dict,
    backend_cpu_s: Callable[[], float | None] = lambda: None,
    stall_timeout_s: float = _STALL_TIMEOUT_S,
) -> BenchResult:
    """Run the job on a connected frontend and say what it cost. With the native engine the whole of it runs in C, and
    jobs may run side by side (`numjobs`), on a ring each.

    `initial` says what the disk holds at the start, so that blocks which nobody wrote are checked too. Without `audit`
    no block is read once more at the end, and the result does not count as verified.
    `progress(done, total)` is called about ten times a second and once at the end, in bytes, or in milliseconds where
    time ends the job. Counters and CPU times are read right before and right after what is measured.

    Raises UsageError for a job that does not fit the disk or its rings, OSError if an operation failed (ETIMEDOUT if
    none completed for `stall_timeout_s`), VerifyError if a block holds what it must not. After each, nothing is left in
    flight, unless the frontend stalled.
    """
    job.check(frontend.size)
    with _load(frontend, job, initial, stall_timeout_s) as load:
        meter = _Meter(backend_counters, backend_cpu_s)
        _measured(load, job, progress)
        meter.stop()
        if job.verify and audit:
            load.audit()
        return _result(job, mode, frontend.engine, load, meter, job.verify and audit)


def _load(
    frontend: Frontend, job: Job, initial: Initial, stall_timeout_s: float
) -> contextlib.AbstractContextManager[_Load]:
    if isinstance(frontend, Blkfront) and frontend.engine == "native":
        if job.numjobs > 1:
            return NativeJobs(frontend, job, initial, stall_timeout_s)
        return NativeLoad(frontend, job, job.shares(frontend.size)[0], initial, stall_timeout_s)
    if job.numjobs > 1:
        raise UsageError(f"{job.numjobs} jobs side by side need the native engine, not {frontend.engine}")
    return PythonLoad(frontend, job, initial, stall_timeout_s)


def _measured(load: _Load, job: Job, progress: Progress | None) -> None:
    shown = _Shown(job, load, progress) if progress else None
    load.run(shown.update if shown else lambda: None)
    if job.writes:
        _flush(load)
    if shown:
        shown.finish()


def _flush(load: _Load) -> None:
    try:
        load.flush()
    except OSError as e:
        # The job did not ask for this one, and a backend need not have it (io/blkif.h, feature-flush-cache).
        if e.errno != errno.EOPNOTSUPP:
            raise


class _Meter:
    """Time, CPU time and counters from its making until `stop`."""

    def __init__(self, counters: Callable[[], Mapping[str, int]], backend_cpu_s: Callable[[], float | None]) -> None:
        self._read_counters = counters
        self._read_backend_cpu_s = backend_cpu_s
        self._counters = dict(counters())
        self._backend_cpu_s = backend_cpu_s()
        self._cpu_s = time.process_time()
        self._started_s = time.perf_counter()

    def stop(self) -> None:
        """Take the differences."""
        self.secs = time.perf_counter() - self._started_s
        self.cpu_s = time.process_time() - self._cpu_s
        end_s = self._read_backend_cpu_s()
        self.backend_cpu_s = None if end_s is None or self._backend_cpu_s is None else end_s - self._backend_cpu_s
        self.counters = {
            name: value if name in LEVELS else value - self._counters.get(name, 0)
            for name, value in self._read_counters().items()
        }


class _Shown:
    """Calls `progress` now and then."""

    def __init__(self, job: Job, load: _Load, progress: Progress) -> None:
        self._job = job
        self._load = load
        self._progress = progress
        self._started_s = self._next_s = time.perf_counter()

    def update(self) -> None:
        """Report if it is time to."""
        now_s = time.perf_counter()
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_INTERVAL_S
            done, total = self._state(now_s)
            self._progress(min(done, total), total)

    def finish(self) -> None:
        """Report the end."""
        total = self._state(self._started_s)[1]
        self._progress(total, total)

    def _state(self, now_s: float) -> tuple[int, int]:
        if self._job.runtime_s is not None:
            return int((now_s - self._started_s) * 1000), max(1, int(self._job.runtime_s * 1000))
        assert self._job.nr_operations is not None
        return self._load.nr_ios * self._job.bs, self._job.nr_operations * self._job.numjobs * self._job.bs


def _result(job: Job, mode: str, engine: str, load: _Load, meter: _Meter, verified: bool) -> BenchResult:
    nr_ios = load.nr_ios
    p50_ns, p99_ns = load.percentiles_ns(50, 99)
    return BenchResult(
        mode=mode,
        engine=engine,
        rw=job.rw,
        bs=job.bs,
        iodepth=job.iodepth,
        numjobs=job.numjobs,
        ios=nr_ios,
        secs=round(meter.secs, 6),
        iops=round(nr_ios / meter.secs, 3),
        MBps=round(nr_ios * job.bs / meter.secs / 1e6, 3),
        p50_us=p50_ns / 1e3,
        p99_us=p99_ns / 1e3,
        frontend_cpu_s=round(meter.cpu_s, 6),
        backend_cpu_s=None if meter.backend_cpu_s is None else round(meter.backend_cpu_s, 6),
        counters=meter.counters,
        verified=verified,
        seed=job.seed,
        bytes=nr_ios * job.bs,
        requests=count_requests(meter.counters, nr_ios),
    )
