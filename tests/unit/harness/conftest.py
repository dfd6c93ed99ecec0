"""A frontend in memory, with faults to order, for everything that drives one."""

import dataclasses
import errno
import random
from collections.abc import Callable

import pytest

from xenblk.blkif import BlkifOp


@dataclasses.dataclass(eq=False)
class FakeBio:
    """A bio of the fake frontend."""

    op: BlkifOp
    offset: int
    buffer: memoryview | None
    error: OSError | None = None


class FakeFrontend:
    """A disk in memory that completes several bios per poll, in a seeded random order, and checks its caller.

    Faults: `fails(bio)` gives an errno or None; `spoils(bio)` drops the data transfer of a bio; `lazy_polls` is how
    many polls return nothing before each completion; `lost_after` is how many submissions the disk survives.
    """

    def __init__(self, size: int = 1 << 20, *, seed: int = 1) -> None:
        self.size = size
        self.engine = "python"
        self.disk = bytearray(size)
        self.fails: Callable[[FakeBio], int | None] = lambda _bio: None
        self.spoils: Callable[[FakeBio], bool] = lambda _bio: False
        self.lazy_polls = 0
        self.lost_after: int | None = None
        self.completed: list[FakeBio] = []
        self.in_flight: list[FakeBio] = []
        self.in_flight_peak = 0
        self.nr_allocated = 0
        self.counters = {"rd_req": 5, "wr_req": 5, "f_req": 0, "persistent_current": 7}
        self._buffers: dict[int, memoryview] = {}
        self._rng = random.Random(seed)
        self._idle = 0
        self._submitted = 0

    def allocate(self, nbytes: int, /) -> memoryview:
        buffer = memoryview(bytearray(nbytes))
        self._buffers[id(buffer)] = buffer
        self.nr_allocated += 1
        return buffer

    def free(self, buffer: memoryview, /) -> None:
        assert not any(bio.buffer is buffer for bio in self.in_flight), "freed while a bio uses it"
        del self._buffers[id(buffer)]
        buffer.release()
        self.nr_allocated -= 1

    def submit(self, op: BlkifOp, offset: int = 0, buffer: memoryview | None = None, /) -> FakeBio:
        self._submitted += 1
        if self.lost_after is not None and self._submitted > self.lost_after:
            raise OSError(errno.ENODEV, "the backend vanished")
        bio = FakeBio(op, offset, buffer)
        for other in self.in_flight:
            assert other.buffer is None or other.buffer is not buffer, "one buffer in two bios"
            assert other.buffer is None or buffer is None or other.offset != offset, "one block in two bios"
        assert buffer is None or offset + buffer.nbytes <= self.size
        self.in_flight.append(bio)
        self.in_flight_peak = max(self.in_flight_peak, len(self.in_flight))
        return bio

    def poll(self, _timeout_s: float | None, /) -> list[FakeBio]:
        assert self.in_flight, "polled with nothing to wait for"
        if self._idle < self.lazy_polls:
            self._idle += 1
            return []
        self._idle = 0
        count = self._rng.randint(1, len(self.in_flight))
        done = [self.in_flight.pop(self._rng.randrange(len(self.in_flight))) for _ in range(count)]
        for bio in done:
            self._complete(bio)
        return done

    def _complete(self, bio: FakeBio) -> None:
        self.completed.append(bio)
        number = self.fails(bio)
        if number is not None:
            bio.error = OSError(number, "the fake said so")
            return
        self.counters[{BlkifOp.READ: "rd_req", BlkifOp.WRITE: "wr_req"}.get(bio.op, "f_req")] += 1
        if bio.buffer is None or self.spoils(bio):
            return
        here = slice(bio.offset, bio.offset + bio.buffer.nbytes)
        if bio.op == BlkifOp.READ:
            bio.buffer[:] = self.disk[here]
        else:
            self.disk[here] = bio.buffer


@pytest.fixture
def make_frontend() -> type[FakeFrontend]:
    """The fake frontend's class."""
    return FakeFrontend
