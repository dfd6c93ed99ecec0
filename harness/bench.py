"""One benchmark: runs a job on a frontend, measures it, and afterwards audits the disk.

measured:    the job's operations, then a flush if it writes, so that what was written counts as durable
afterwards:  the audit reads every block that the job touched and checks it once more
"""

import errno
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from xenblk.blkif import BlkifOp
from xenblk.harness.driver import Driver
from xenblk.harness.frontend import Frontend
from xenblk.harness.latency import LatencyLog
from xenblk.harness.oracle import Initial, Oracle
from xenblk.harness.result import LEVELS, BenchResult, count_requests
from xenblk.harness.workload import FLUSH, Job, Operation, operations

Progress = Callable[[int, int], None]

_STALL_TIMEOUT_S: Final = 60.0
_PROGRESS_INTERVAL_S: Final = 0.1


def run_job(
    frontend: Frontend,
    job: Job,
    *,
    mode: str = "",
    engine: str = "",
    progress: Progress | None = None,
    initial: Initial | None = None,
    backend_counters: Callable[[], Mapping[str, int]] = dict,
    backend_cpu_s: Callable[[], float | None] = lambda: None,
    stall_timeout_s: float = _STALL_TIMEOUT_S,
) -> BenchResult:
    """Run the job on a connected frontend and say what it cost.

    `initial(block)` is the CRC-32 of what a block holds at the start, None if unknown; zeros without it.
    `progress(done, total)` is called about ten times a second and once at the end, in bytes, or in milliseconds where
    time ends the job. Counters and CPU times are read right before and right after what is measured.

    Raises UsageError for a job that does not fit the disk, OSError if an operation failed (ETIMEDOUT if none completed
    for `stall_timeout_s`), VerifyError if a block holds what it must not. After each, nothing is left in flight, unless
    the frontend stalled.
    """
    job.check(frontend.size)
    oracle = Oracle(job.seed, job.bs, initial) if job.verify else None
    latencies = LatencyLog()
    with Driver(frontend, job.bs, job.iodepth, oracle, stall_timeout_s) as driver:
        meter = _Meter(backend_counters, backend_cpu_s)
        _measured(driver, job, frontend.size // job.bs, latencies, progress)
        meter.stop()
        if oracle is not None:
            _audit(driver, oracle)
    return _result(job, mode, engine, latencies, meter)


def _measured(driver: Driver, job: Job, nr_blocks: int, latencies: LatencyLog, progress: Progress | None) -> None:
    started_s = time.perf_counter()
    stream = operations(job, nr_blocks)
    if job.runtime_s is not None:
        stream = _until(stream, started_s + job.runtime_s)
    shown = _Shown(job, latencies, progress, started_s) if progress else None
    driver.run(stream, latencies, shown.update if shown else lambda: None)
    if job.writes:
        _flush(driver)
    if shown:
        shown.finish()


def _until(stream: Iterator[Operation], deadline_s: float) -> Iterator[Operation]:
    return itertools.takewhile(lambda _operation: time.perf_counter() < deadline_s, stream)


def _flush(driver: Driver) -> None:
    try:
        driver.run(iter((FLUSH,)), LatencyLog())
    except OSError as e:
        # The job did not ask for this one, and a backend need not have it (io/blkif.h, feature-flush-cache).
        if e.errno != errno.EOPNOTSUPP:
            raise


def _audit(driver: Driver, oracle: Oracle) -> None:
    driver.run((Operation(BlkifOp.READ, block) for block in oracle.touched()), LatencyLog())


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

    def __init__(self, job: Job, latencies: LatencyLog, progress: Progress, started_s: float) -> None:
        self._job = job
        self._latencies_ns = latencies.latencies_ns
        self._progress = progress
        self._started_s = started_s
        self._next_s = started_s

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
        return len(self._latencies_ns) * self._job.bs, self._job.nr_operations * self._job.bs


def _result(job: Job, mode: str, engine: str, latencies: LatencyLog, meter: _Meter) -> BenchResult:
    nr_ios = len(latencies.latencies_ns)
    p50_ns, p99_ns = latencies.percentiles_ns(50, 99)
    return BenchResult(
        mode=mode,
        engine=engine,
        rw=job.rw,
        bs=job.bs,
        iodepth=job.iodepth,
        numjobs=1,
        ios=nr_ios,
        secs=round(meter.secs, 6),
        iops=round(nr_ios / meter.secs, 3),
        MBps=round(nr_ios * job.bs / meter.secs / 1e6, 3),
        p50_us=p50_ns / 1e3,
        p99_us=p99_ns / 1e3,
        frontend_cpu_s=round(meter.cpu_s, 6),
        backend_cpu_s=None if meter.backend_cpu_s is None else round(meter.backend_cpu_s, 6),
        counters=meter.counters,
        verified=job.verify,
        seed=job.seed,
        bytes=nr_ios * job.bs,
        requests=count_requests(meter.counters, nr_ios),
    )
