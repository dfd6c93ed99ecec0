"""A job at the native engine's full speed: load.c on a connected frontend, Python's lock released."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

from xenblk import huge_pages
from xenblk._native import ffi, lib
from xenblk.blkfront import Blkfront
from xenblk.blkif import BlkifOp
from xenblk.harness.oracle import Initial, VerifyError
from xenblk.harness.workload import Job, Share
from xenblk.vdev import vdev_name

_SLICE_NS: Final = 50_000_000
"""How long the frontend is held at a time: its other threads, signals and progress wait for so long."""

_KNOWN_BYTES: Final = 1 << 20
"""How much of a disk is read at a time to know what it holds."""

_MASK: Final = (1 << 64) - 1

_abandoned: list[Any] = []
"""Loads whose operations never ended: the engine still points to them."""


class Latencies(NamedTuple):
    """How many operations took a time of each bucket (load.h), and the longest time."""

    counts: Sequence[int]
    max_ns: int


def percentiles_ns(several: Sequence[Latencies], *percents: float) -> list[int]:
    """As of LatencyLog, of all of them together, from above and within 2 per cent."""
    counts = [sum(bucket) for bucket in zip(*(latencies.counts for latencies in several), strict=True)]
    max_ns = max(latencies.max_ns for latencies in several)
    return [min(_percentile_ns(counts, percent), max_ns) for percent in percents]


def _percentile_ns(counts: Sequence[int], percent: float) -> int:
    rank, seen = max(1, -int(-sum(counts) * percent // 100)), 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return int(lib.xb_load_bucket_ns(bucket))
    return 0


class NativeLoad:
    """A checked job on its share of a frontend with the native engine; all of it happens in a `with`. Nothing else is
    in flight on its queue.

    `run`, `flush` and `audit` raise OSError if an operation fails, the disk is lost, or nothing completes for
    `stall_timeout_s` (ETIMEDOUT); VerifyError for wrong data. At the end nothing is in flight, or its memory is never
    given back.
    """

    def __init__(self, frontend: Blkfront, job: Job, share: Share, initial: Initial, stall_timeout_s: float) -> None:
        self._frontend = frontend
        self._job = job
        self._share = share
        self._initial = initial
        self._stall_timeout_s = stall_timeout_s
        self._stalled = False

    def __enter__(self) -> Self:
        job, frontend = self._job, self._frontend
        if job.writes and frontend.read_only:
            raise OSError(errno.EROFS, f"disk {vdev_name(frontend.handle)} is read-only: it can be read, not written")
        self._buffers = self._allocated(job.iodepth * job.bs)
        self._native = ffi.NULL
        try:
            self._native = self._created()
            self._result = lib.xb_load_result(self._native)
            if job.verify:
                self._know()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _allocated(self, nr_bytes: int) -> memoryview:
        """Only a connection without persistent grants can lend the domain's own pages; huge ones are copied faster."""
        if not self._frontend.persistent:
            return self._frontend.allocate(nr_bytes)
        return huge_pages.allocate(max(nr_bytes, huge_pages.HUGE_PAGE_SIZE))[:nr_bytes]

    def _free(self) -> None:
        if not self._frontend.persistent:
            self._frontend.free(self._buffers)

    def _created(self) -> Any:
        job, share = self._job, self._share
        config = ffi.new("struct xb_load_config *")
        with ffi.from_buffer(self._buffers) as memory:
            config.buffers = ffi.cast("uint8_t *", memory)
        workload = config.workload
        workload.nr_blocks, config.offset = share.nr_blocks, share.offset
        workload.nr_left = _MASK if job.nr_operations is None else job.nr_operations
        workload.read_percent, workload.fsync = job.read_percent, job.fsync
        workload.random, workload.in_random_order = share.seed & _MASK, job.random
        config.seed, config.bs, config.iodepth = share.seed & _MASK, job.bs, job.iodepth
        config.verify = job.verify
        with self._frontend.native(share.queue) as front:
            config.front = front
        native = lib.xb_load_create(config)
        if native == ffi.NULL:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return native

    def _know(self) -> None:
        oracle, bs = lib.xb_load_oracle(self._native), self._job.bs
        if self._initial == "zeros":
            lib.xb_oracle_know_zeros(oracle)
        elif self._initial == "written":
            lib.xb_oracle_know_written(oracle)
        elif self._initial != "unknown":
            nr_blocks, step = self._share.nr_blocks, max(1, _KNOWN_BYTES // bs)
            for first in range(0, nr_blocks, step):
                count = min(step, nr_blocks - first)
                data = self._initial.pread(count * bs, self._share.offset + first * bs)
                lib.xb_oracle_know(oracle, first, data, count)

    def __exit__(self, *_exc_info: object) -> None:
        if self._native == ffi.NULL:
            self._free()
            return
        if self._result.in_flight and not self._stalled:
            self.stop()
            with contextlib.suppress(OSError):
                self._drive(lambda: None)
        # The backend may go on writing to what is in flight, even when the disk is lost.
        if not self._result.in_flight:
            self._free()
        elif not self._frontend.lost:
            _abandoned.append((self._native, self._buffers))
            return
        lib.xb_load_destroy(self._native)

    def run(self, after_poll: Callable[[], None]) -> None:
        """Run the job; `after_poll` is called about twenty times a second."""
        self._do(lib.XB_LOAD_JOB, after_poll)

    def flush(self) -> None:
        """Flush the disk."""
        self._do(lib.XB_LOAD_FLUSH)

    def audit(self) -> None:
        """Read every block that the job touched, and check it once more."""
        self._do(lib.XB_LOAD_AUDIT)

    def stop(self) -> None:
        """Let `run` end when what is in flight is done, from any thread."""
        lib.xb_load_stop(self._native)

    @property
    def nr_ios(self) -> int:
        """How many reads and writes of the job completed."""
        return int(self._result.reads + self._result.writes)

    def percentiles_ns(self, *percents: float) -> list[int]:
        """Those of the job's reads and writes."""
        return percentiles_ns([self.latencies], *percents)

    @property
    def latencies(self) -> Latencies:
        """What `percentiles_ns` looks at."""
        return Latencies(list(self._result.latencies), int(self._result.max_ns))

    def _do(self, what: int, after_poll: Callable[[], None] = lambda: None) -> None:
        lib.xb_load_begin(self._native, what)
        self._drive(after_poll, self._job.runtime_s if what == lib.XB_LOAD_JOB else None)
        if self._result.error:
            raise self._failure()

    def _drive(self, after_poll: Callable[[], None], runtime_s: float | None = None) -> None:
        """Run slice by slice until nothing is to come, which a runtime brings about."""
        end_s = None if runtime_s is None else time.monotonic() + runtime_s
        moved_s, moved = time.monotonic(), -1
        while True:
            slice_ns = _SLICE_NS if end_s is None else min(_SLICE_NS, int((end_s - time.monotonic()) * 1e9))
            if slice_ns <= 0:
                self.stop()
                slice_ns = _SLICE_NS
            with self._frontend.native(self._share.queue):
                state = lib.xb_load_run(self._native, slice_ns)
            after_poll()
            if state in (lib.XB_LOAD_DONE, lib.XB_LOAD_FAILED):
                return
            if (done := self._result.completed) != moved:
                moved_s, moved = time.monotonic(), done
            elif time.monotonic() - moved_s > self._stall_timeout_s:
                self._stalled = True
                count = self._result.in_flight
                raise OSError(
                    errno.ETIMEDOUT,
                    f"none of {count} operations in flight completed for {self._stall_timeout_s:g} s",
                )

    def _failure(self) -> VerifyError | OSError:
        found = self._result
        if found.error == errno.EILSEQ:
            return self._complaint(found.mismatch)
        op, offset = BlkifOp(found.bad_op), int(found.bad_offset)
        what = "the flush"
        if op != BlkifOp.FLUSH_DISKCACHE:
            what = f"the {op.name.lower()} of {self._job.bs} bytes at offset {offset}"
        answer = f"the backend answered status {found.bad_status} to {op.name} at {offset}"
        return OSError(int(found.error), f"{what} failed: {answer}")

    def _complaint(self, found: Any) -> VerifyError:
        offset = self._share.offset + found.block * self._job.bs
        must = f"block {found.block} at offset {offset} must hold version {found.version}"
        if found.version == 0:
            detail = f" with checksum {found.expected:#010x}, found {found.found:#010x}"
        else:
            detail = f"; the first wrong byte is {found.place} of {self._job.bs}"
            if found.found_version:
                block, sector = divmod(found.found_sector, self._job.bs // 512)
                detail += f", under the stamp of block {block}, sector {sector}, version {found.found_version}"
        return VerifyError(f"{must}{detail}; seed {self._job.seed}")
