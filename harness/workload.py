"""What a benchmark does: a job in fio's words, and the seeded stream of operations that it stands for.

The stream depends on the seed alone. Completions come in any order, yet two operations must never be in flight on one
block, or nobody could say what a read should see. So an operation whose block is busy *waits*, later ones overtake it,
and it goes out when its block is free: what happens to each block, and in which order, is the same in every run.
"""

import collections
import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from xenblk.abi import SECTOR_SIZE
from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError

RW: Final = ("read", "write", "randread", "randwrite", "rw", "randrw")
BS_MAX: Final = 1 << 20
IODEPTH_MAX: Final = 1024
NUMJOBS_MAX: Final = 256

NO_BLOCK: Final = -1
"""The block of an operation that concerns the whole disk: a flush."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One workload. `bs` and `io_size` are in bytes; exactly one of `io_size` and `runtime_s` is given.

    `rwmixread` is the share of reads in a mix, in per cent; `fsync` puts a flush after every so many writes, 0 never;
    without `verify` no data is checked. Of `io_size`, whole blocks of `bs` are transferred.

    As in fio, `numjobs` such jobs run side by side, each with so much to do and so many in flight. Each has an equal
    share of the disk to itself, where fio's would meet.
    """

    rw: str
    bs: int
    iodepth: int
    seed: int
    io_size: int | None = None
    runtime_s: float | None = None
    rwmixread: int = 50
    fsync: int = 0
    verify: bool = True
    numjobs: int = 1

    @property
    def random(self) -> bool:
        """Whether blocks are taken at random, not one after another."""
        return self.rw.startswith("rand")

    @property
    def reads(self) -> bool:
        """Whether any operation may be a read."""
        return self.rw.removeprefix("rand") in ("read", "rw")

    @property
    def writes(self) -> bool:
        """Whether any operation may be a write."""
        return self.rw.removeprefix("rand") in ("write", "rw")

    @property
    def read_percent(self) -> int:
        """The share of reads."""
        return self.rwmixread if self.reads and self.writes else 100 * self.reads

    @property
    def nr_operations(self) -> int | None:
        """How many reads and writes there are; None if only time ends the job."""
        return None if self.io_size is None else self.io_size // self.bs

    def shares(self, size: int) -> "list[Share]":
        """What each of the jobs gets of a disk of `size` bytes."""
        nr_blocks = size // self.bs // self.numjobs
        return [Share(n, self.seed + n, n * nr_blocks * self.bs, nr_blocks) for n in range(self.numjobs)]

    def check(self, size: int) -> None:
        """UsageError, a sentence with the value and its bound, unless a disk of `size` bytes can run this job."""
        for complaint in itertools.chain(self._complaints(), self._size_complaints(size)):
            raise UsageError(complaint)

    def _complaints(self) -> Iterator[str]:
        if self.rw not in RW:
            yield f"rw must be one of {', '.join(RW)}, not {self.rw!r}"
        if self.bs % SECTOR_SIZE or not SECTOR_SIZE <= self.bs <= BS_MAX:
            yield f"bs must be a multiple of {SECTOR_SIZE} from {SECTOR_SIZE} to {BS_MAX} bytes, not {self.bs}"
        if not 1 <= self.iodepth <= IODEPTH_MAX:
            yield f"iodepth must be from 1 to {IODEPTH_MAX}, not {self.iodepth}"
        if not 1 <= self.numjobs <= NUMJOBS_MAX:
            yield f"numjobs must be from 1 to {NUMJOBS_MAX}, not {self.numjobs}"
        if (self.io_size is None) == (self.runtime_s is None):
            yield f"give either io_size or runtime_s, not {self.io_size} and {self.runtime_s}"
        if self.io_size is not None and self.io_size < self.bs:
            yield f"io_size must be at least one block of {self.bs} bytes, not {self.io_size}"
        if self.runtime_s is not None and not 0 < self.runtime_s < float("inf"):
            yield f"runtime_s must be more than 0 seconds and finite, not {self.runtime_s}"
        if not 0 <= self.rwmixread <= 100:
            yield f"rwmixread must be from 0 to 100 per cent, not {self.rwmixread}"
        if self.fsync < 0:
            yield f"fsync must be 0 or more writes, not {self.fsync}"

    def _size_complaints(self, size: int) -> Iterator[str]:
        nr_blocks = size // self.bs // self.numjobs
        if nr_blocks < self.iodepth:
            has = "has" if self.numjobs == 1 else f"has for each of {self.numjobs} jobs"
            yield (
                f"iodepth {self.iodepth} needs as many blocks of {self.bs} bytes, "
                f"and the disk of {size} bytes {has} {nr_blocks}"
            )


class Share(NamedTuple):
    """What one of several jobs has for itself: a queue, a seed, and `nr_blocks` blocks from byte `offset` on."""

    queue: int
    seed: int
    offset: int
    nr_blocks: int


class Operation(NamedTuple):
    """A step of the stream: what to do with block number `block`."""

    op: BlkifOp
    block: int


FLUSH: Final = Operation(BlkifOp.FLUSH_DISKCACHE, NO_BLOCK)


def operations(job: Job, nr_blocks: int) -> Iterator[Operation]:
    """The stream of a checked job on a disk of `nr_blocks` blocks of `bs` bytes; endless if only time ends the job."""
    nr_writes = 0
    for operation in itertools.islice(_reads_and_writes(job, nr_blocks), job.nr_operations):
        yield operation
        if job.fsync and operation.op == BlkifOp.WRITE:
            nr_writes += 1
            if nr_writes % job.fsync == 0:
                yield FLUSH


def _reads_and_writes(job: Job, nr_blocks: int) -> Iterator[Operation]:
    rng = random.Random(job.seed)
    # As in fio, a sequential mix reads and writes at two places, each of which goes through the whole disk.
    places = {op: itertools.cycle(range(nr_blocks)) for op in (BlkifOp.READ, BlkifOp.WRITE)}
    while True:
        op = BlkifOp.READ if rng.random() * 100 < job.read_percent else BlkifOp.WRITE
        # Of all of random.Random, only random() promises the same numbers in every version of Python.
        yield Operation(op, int(rng.random() * nr_blocks) if job.random else next(places[op]))


class Issuer:
    """Hands out a stream so that no block is in flight twice: `take` an operation, tell when it is `done`.

    Per block the order is the stream's. At most `nr_waiting_max` operations wait for their block; then nothing
    overtakes them any more.
    """

    def __init__(self, stream: Iterator[Operation], nr_waiting_max: int) -> None:
        self._stream = stream
        self._nr_waiting_max = nr_waiting_max
        self._nr_waiting = 0
        self._busy: set[int] = set()
        self._waiting: dict[int, collections.deque[Operation]] = {}
        self._ready: collections.deque[Operation] = collections.deque()

    def take(self) -> Operation | None:
        """The next operation that may start now; None while all must wait, and after the last."""
        if self._ready:
            return self._ready.popleft()
        while self._nr_waiting < self._nr_waiting_max:
            operation = next(self._stream, None)
            if operation is None or operation.block == NO_BLOCK:
                return operation
            if operation.block not in self._busy:
                self._busy.add(operation.block)
                return operation
            self._waiting.setdefault(operation.block, collections.deque()).append(operation)
            self._nr_waiting += 1
        return None

    def done(self, operation: Operation) -> None:
        """The operation has completed: its block is free, or the next one's that waited for it."""
        waiting = self._waiting.get(operation.block)
        if waiting is None:
            self._busy.discard(operation.block)
            return
        self._ready.append(waiting.popleft())
        self._nr_waiting -= 1
        if not waiting:
            del self._waiting[operation.block]
