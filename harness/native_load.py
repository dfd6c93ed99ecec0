"""A load at the native engine's full speed: load.c on a connected frontend, Python's lock released."""

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.blkfront import Blkfront
from xenblk.errors import UsageError
from xenblk.harness.oracle import VerifyError

_SLICE_NS: Final = 50_000_000
"""How long the frontend is held at a time: its other threads, and signals, wait for so long."""

_STALL_S: Final = 30.0

_abandoned: list[Any] = []
"""Loads whose operations never ended: the engine still points to them."""


@dataclasses.dataclass(frozen=True)
class NativeLoad:
    """What to run. `bs` is in bytes; exactly one of `count` (operations) and `runtime_s` is given.

    `read_percent` is the share of reads, `random` whether blocks are taken at random. With `verify` every write stamps
    its block and every read of a block that was written, or of any if the disk is `stamped`, must find the stamp.
    """

    read_percent: int = 100
    random: bool = True
    bs: int = 4096
    iodepth: int = 32
    seed: int = 1
    count: int | None = None
    runtime_s: float | None = None
    verify: bool = False
    stamped: bool = False

    def check(self, size: int) -> None:
        """UsageError unless a disk of `size` bytes can run it."""
        if self.bs <= 0 or self.bs % 512:
            raise UsageError(f"bs must be a multiple of 512 bytes, not {self.bs}")
        if not 1 <= self.iodepth <= lib.XB_LOAD_IODEPTH_MAX:
            raise UsageError(f"iodepth must be from 1 to {lib.XB_LOAD_IODEPTH_MAX}, not {self.iodepth}")
        if not 0 <= self.read_percent <= 100:
            raise UsageError(f"read_percent must be from 0 to 100, not {self.read_percent}")
        if (self.count is None) == (self.runtime_s is None):
            raise UsageError(f"give either count or runtime_s, not {self.count} and {self.runtime_s}")
        if self.count is not None and self.count < 1:
            raise UsageError(f"count must be at least 1 operation, not {self.count}")
        if size // self.bs < self.iodepth:
            raise UsageError(
                f"iodepth {self.iodepth} needs as many blocks of {self.bs} bytes, and the disk of {size} bytes has "
                f"{size // self.bs}"
            )


@dataclasses.dataclass(frozen=True)
class NativeResult:
    """What was done and how long it took; latencies are within 2 per cent, the longest is exact."""

    ios: int
    reads: int
    writes: int
    verified: int
    secs: float
    cpu_s: float
    """User and system time of this whole process."""
    p50_us: float
    p99_us: float
    max_us: float

    @property
    def iops(self) -> float:
        """Operations per second."""
        return self.ios / self.secs


def run_native_load(frontend: Blkfront, load: NativeLoad) -> NativeResult:
    """Run it to its end on a frontend with the native engine that has nothing in flight.

    OSError if an operation fails, the disk is lost or nothing completes for half a minute; VerifyError for wrong data.
    """
    load.check(frontend.size)
    with _running(frontend, load) as (native, result):
        start_s, start_cpu_s = time.perf_counter(), _cpu_s()
        _drive(frontend, native, result, load.runtime_s)
        secs, cpu_s = time.perf_counter() - start_s, _cpu_s() - start_cpu_s
        if result.error:
            raise _failure(load, result)
        p50_ns, p99_ns = (min(_percentile_ns(result, percent), result.max_ns) for percent in (50, 99))
        return NativeResult(
            ios=int(result.reads + result.writes),
            reads=int(result.reads),
            writes=int(result.writes),
            verified=int(result.verified),
            secs=secs,
            cpu_s=cpu_s,
            p50_us=p50_ns / 1e3,
            p99_us=p99_ns / 1e3,
            max_us=result.max_ns / 1e3,
        )


def stamp_disk(size: int, bs: int, seed: int, write: Callable[[bytes, int], object]) -> None:
    """Write the stamps that a load with `stamped` expects, block by block, by `write(data, offset)`."""
    for block in range(size // bs):
        write(int(lib.xb_load_stamp(seed, block, 1)).to_bytes(8, "little").ljust(bs, b"\0"), block * bs)


@contextlib.contextmanager
def _running(frontend: Blkfront, load: NativeLoad) -> Iterator[tuple[Any, Any]]:
    """A load, and its result as it grows. At the end nothing of it is in flight, or it is left for ever."""
    buffers = frontend.allocate(load.iodepth * load.bs)
    native = ffi.NULL
    try:
        native = _create(frontend, load, buffers)
        result = lib.xb_load_result(native)
        try:
            yield native, result
        finally:
            lib.xb_load_stop(native)
            with contextlib.suppress(OSError):
                _drive(frontend, native, result, None)
    finally:
        if native != ffi.NULL:
            _end(frontend, native, buffers)
        else:
            frontend.free(buffers)


def _end(frontend: Blkfront, native: Any, buffers: memoryview) -> None:
    """Free a load. The backend may go on writing to what is in flight, even when the disk is lost."""
    if not lib.xb_load_result(native).in_flight:
        frontend.free(buffers)
    elif not frontend.lost:
        _abandoned.append((native, buffers))
        return
    lib.xb_load_destroy(native)


def _create(frontend: Blkfront, load: NativeLoad, buffers: memoryview) -> Any:
    config = ffi.new("struct xb_load_config *")
    with ffi.from_buffer(buffers) as memory:
        config.buffers = ffi.cast("uint8_t *", memory)
    config.nr_blocks = frontend.size // load.bs
    config.nr_operations = load.count or 0
    config.seed, config.bs, config.iodepth = load.seed, load.bs, load.iodepth
    config.read_percent, config.random = load.read_percent, load.random
    config.verify, config.stamped = load.verify, load.stamped
    with frontend.native() as front:
        config.front = front
    native = lib.xb_load_create(config)
    if native == ffi.NULL:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return native


def _drive(frontend: Blkfront, native: Any, result: Any, runtime_s: float | None) -> None:
    """Run slice by slice until the load is done, which a runtime stops."""
    end_s = None if runtime_s is None else time.monotonic() + runtime_s
    moved_s, moved = time.monotonic(), -1
    while True:
        left_ns = _SLICE_NS if end_s is None else int((end_s - time.monotonic()) * 1e9)
        if left_ns <= 0:
            lib.xb_load_stop(native)
        with frontend.native():
            state = lib.xb_load_run(native, max(1, min(_SLICE_NS, left_ns if left_ns > 0 else _SLICE_NS)))
        if state in (lib.XB_LOAD_DONE, lib.XB_LOAD_FAILED):
            return
        if (done := result.reads + result.writes) != moved:
            moved_s, moved = time.monotonic(), done
        elif time.monotonic() - moved_s > _STALL_S:
            raise OSError(errno.ETIMEDOUT, f"none of {result.in_flight} operations completed for {_STALL_S:g} s")


def _failure(load: NativeLoad, result: Any) -> VerifyError | OSError:
    where = f"block {result.bad_block} at offset {result.bad_block * load.bs}"
    if result.error == errno.EILSEQ:
        return VerifyError(f"{where} has the stamp {result.bad_found:#018x}, not {result.bad_stamp:#018x}")
    return OSError(int(result.error), f"{where}: {os.strerror(result.error)}")


def _percentile_ns(result: Any, percent: int) -> int:
    rank, seen = -(-(result.reads + result.writes) * percent // 100), 0
    for bucket, count in enumerate(result.latencies):
        seen += count
        if count and seen >= rank:
            return int(lib.xb_load_bucket_ns(bucket))
    return 0


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
