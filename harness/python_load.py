"""A job on any frontend, operation by operation in Python: the stream of workload.py through the driver."""

import array
import contextlib
import itertools
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Self

from xenblk.blkif import BlkifOp
from xenblk.harness.driver import Driver
from xenblk.harness.frontend import Frontend
from xenblk.harness.latency import LatencyLog
from xenblk.harness.oracle import Initial, Oracle
from xenblk.harness.workload import FLUSH, Job, Operation, operations


class PythonLoad:
    """A checked job on a frontend, in a `with`; `run`, `flush` and `audit` raise what the driver raises."""

    def __init__(self, frontend: Frontend, job: Job, initial: Initial, stall_timeout_s: float) -> None:
        self._job = job
        self._nr_blocks = frontend.size // job.bs
        self._oracle = _oracle(job, self._nr_blocks, initial) if job.verify else None
        self._latencies = LatencyLog()
        self._driver = Driver(frontend, job.bs, job.iodepth, self._oracle, stall_timeout_s)
        self._undo = contextlib.ExitStack()
        self.percentiles_ns = self._latencies.percentiles_ns
        """Those of the job's reads and writes."""

    def __enter__(self) -> Self:
        self._undo.enter_context(self._driver)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def run(self, after_poll: Callable[[], None]) -> None:
        """Run the job; `after_poll` is called whenever operations completed."""
        stream = operations(self._job, self._nr_blocks)
        if self._job.runtime_s is not None:
            stream = _until(stream, time.perf_counter() + self._job.runtime_s)
        self._driver.run(stream, self._latencies, after_poll)

    def flush(self) -> None:
        """Flush the disk."""
        self._driver.run(iter((FLUSH,)), LatencyLog())

    def audit(self) -> None:
        """Read every block that the job touched, and check it once more."""
        assert self._oracle is not None
        self._driver.run((Operation(BlkifOp.READ, block) for block in self._oracle.touched()), LatencyLog())

    @property
    def nr_ios(self) -> int:
        """How many reads and writes of the job completed."""
        return len(self._latencies.latencies_ns)


def _until(stream: Iterator[Operation], deadline_s: float) -> Iterator[Operation]:
    return itertools.takewhile(lambda _operation: time.perf_counter() < deadline_s, stream)


def _oracle(job: Job, nr_blocks: int, initial: Initial) -> Oracle:
    if initial == "zeros":
        return Oracle(job.seed, job.bs)
    if initial == "written":
        return Oracle(job.seed, job.bs, first_version=1)
    if initial == "unknown":
        return Oracle(job.seed, job.bs, lambda _block: None)
    bs = job.bs
    checksums = array.array("I", (zlib.crc32(initial.pread(bs, block * bs)) for block in range(nr_blocks)))
    return Oracle(job.seed, bs, checksums.__getitem__)
