"""The data path's answers: a row per check of Linux's blkback, for both layouts, and what reaches the disk."""

import contextlib
import mmap
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenblk.blkback.engine import PythonEngine
from xenblk.blkif import (
    X86_32,
    X86_64,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    BlkifStatus,
)
from xenblk.counters import Counters
from xenblk.disk import MemoryDisk
from xenblk.errors import GrantError, RingPeerError
from xenblk.ring import BackRing, FrontRing

OKAY, ERROR, EOPNOTSUPP = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
READ, WRITE, FLUSH = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE
SECTORS = 64
WHOLE = BlkifSegment(8, 0, 7)


class Pages:
    """Granted pages without Xen: references 8 to 39 exist. Counts what is lent, so that a leak shows."""

    def __init__(self) -> None:
        self.memory = {ref: bytearray(4096) for ref in range(8, 40)}
        self.lent = 0

    @contextlib.contextmanager
    def pages(self, segments: Sequence[BlkifSegment], to_device: bool) -> Iterator[list[memoryview]]:
        for segment in segments:
            if segment.gref not in self.memory:
                raise GrantError(f"no grant {segment.gref}", -3)
        self.lent += 1
        try:
            yield [memoryview(self.memory[s.gref])[s.first_sect * 512 : (s.last_sect + 1) * 512] for s in segments]
        finally:
            self.lent -= 1

    def purge(self) -> None: ...

    def close(self) -> None: ...


class Bench:
    """A frontend's ring, the engine on its other end, a disk of 64 sectors."""

    def __init__(self, abi: Abi, read_only: bool = False) -> None:
        self.abi = abi
        self.page = memoryview(mmap.mmap(-1, 4096))
        self.ring = FrontRing(self.page, abi.entry_size)
        self.disk = MemoryDisk(SECTORS * 512, read_only=read_only)
        self.access = Pages()
        self.counters = Counters()
        back = BackRing(self.page, abi.entry_size)
        self.engine = PythonEngine(back, abi, self.disk, self.access, self.counters)

    def ask(self, *requests: BlkifRequest) -> list[BlkifResponse]:
        for request in requests:
            self.ring.put(self.abi.pack_request(request))
        self.ring.push()
        self.engine.serve_batch()
        answers = []
        while (slot := self.ring.consume()) is not None:
            answers.append(self.abi.parse_response(slot))
        assert self.access.lent == 0
        return answers

    def status(self, operation: int, *segments: BlkifSegment, sector: int = 0, nr_segments: int | None = None) -> int:
        count = len(segments) if nr_segments is None else nr_segments
        (answer,) = self.ask(BlkifRequest(operation, 0, 0xFEDCBA9876543210, sector, count, segments))
        assert (answer.id, answer.operation) == (0xFEDCBA9876543210, operation)
        return answer.status


@pytest.fixture(params=[X86_64, X86_32], ids=["x86_64", "x86_32"])
def abi(request: pytest.FixtureRequest) -> Abi:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("operation", [1 << 1, 4, 7, 200, 255])
def test_unknown_and_unoffered_operations(abi: Abi, operation: int) -> None:
    assert Bench(abi).status(operation, WHOLE) == EOPNOTSUPP


def test_segment_counts(abi: Abi) -> None:
    bench = Bench(abi)
    assert bench.status(READ) == ERROR
    assert bench.status(WRITE) == ERROR
    assert bench.status(FLUSH) == OKAY
    eleven = [BlkifSegment(ref, 0, 0) for ref in range(8, 19)]
    assert bench.status(READ, *eleven) == OKAY
    assert bench.status(READ, *eleven, nr_segments=12) == ERROR
    assert bench.status(READ, *eleven, nr_segments=255) == ERROR


@pytest.mark.parametrize(
    ("first", "last", "status"), [(0, 7, OKAY), (7, 7, OKAY), (1, 0, ERROR), (0, 8, ERROR), (8, 255, ERROR)]
)
@pytest.mark.parametrize("position", [0, 10])
def test_segment_bounds_at_either_end_of_a_request(abi: Abi, first: int, last: int, status: int, position: int) -> None:
    segments = [BlkifSegment(ref, 0, 0) for ref in range(8, 19)]
    segments[position] = BlkifSegment(8 + position, first, last)
    assert Bench(abi).status(READ, *segments) == status


def test_the_end_of_the_disk(abi: Abi) -> None:
    bench = Bench(abi)
    assert bench.status(READ, WHOLE, sector=SECTORS - 8) == OKAY
    assert bench.status(READ, WHOLE, sector=SECTORS - 7) == ERROR
    assert bench.status(READ, WHOLE, sector=SECTORS) == ERROR
    assert bench.status(WRITE, WHOLE, sector=(1 << 64) - 1) == ERROR
    assert bench.status(WRITE, WHOLE, sector=(1 << 64) - 8) == ERROR
    assert bench.status(FLUSH, sector=(1 << 64) - 1) == OKAY, "a flush without data has no sectors to check"


def test_a_read_only_disk(abi: Abi) -> None:
    bench = Bench(abi, read_only=True)
    assert bench.status(READ, WHOLE) == OKAY
    assert bench.status(WRITE, WHOLE) == ERROR
    assert bench.status(FLUSH) == ERROR


@pytest.mark.parametrize("position", range(11))
def test_an_ungranted_page_at_any_position(abi: Abi, position: int) -> None:
    segments = [BlkifSegment(ref, 0, 0) for ref in range(8, 19)]
    segments[position] = BlkifSegment(0xFFFFFFFF, 0, 0)
    assert Bench(abi).status(WRITE, *segments) == ERROR


def test_the_first_thing_wrong_decides(abi: Abi) -> None:
    bench = Bench(abi, read_only=True)
    assert bench.status(9, nr_segments=200, sector=1 << 60) == EOPNOTSUPP
    assert bench.counters.snapshot()["wr_req"] == 0
    assert bench.status(WRITE, BlkifSegment(1, 7, 0), sector=1 << 60) == ERROR
    assert bench.counters.snapshot()["wr_req"] == 1, "a request is counted when it is dispatched"
    assert bench.counters.snapshot()["wr_sect"] == 0, "sectors only when they moved"


def test_data_goes_where_it_belongs(abi: Abi) -> None:
    bench = Bench(abi)
    bench.access.memory[9][512:1536] = b"A" * 512 + b"B" * 512
    bench.access.memory[10][4096 - 512 :] = b"C" * 512
    assert bench.status(WRITE, BlkifSegment(9, 1, 2), BlkifSegment(10, 7, 7), sector=5) == OKAY
    assert bench.disk.pread(3 * 512, 5 * 512) == b"A" * 512 + b"B" * 512 + b"C" * 512
    assert bench.status(READ, BlkifSegment(20, 3, 5), sector=5) == OKAY
    assert bytes(bench.access.memory[20]) == bytes(1536) + b"A" * 512 + b"B" * 512 + b"C" * 512 + bytes(1024)
    counts = bench.counters.snapshot()
    assert (counts["rd_req"], counts["wr_req"], counts["rd_sect"], counts["wr_sect"]) == (1, 1, 3, 3)


def test_a_full_ring_is_answered_in_one_batch_with_one_notification(abi: Abi) -> None:
    bench = Bench(abi)
    requests = [BlkifRequest(READ, 0, n, 0, 1, (WHOLE,)) for n in range(bench.ring.nr_ents)]
    assert [answer.id for answer in bench.ask(*requests)] == list(range(32))
    assert bench.counters.snapshot()["notify_sent"] == 1


def test_response_padding_is_zero(abi: Abi) -> None:
    bench = Bench(abi)
    bench.page[64:] = b"\xaa" * (4096 - 64)
    bench.ask(BlkifRequest(READ, 0, 1, 0, 1, (WHOLE,)))
    size = 16 if abi is X86_64 else 12
    assert bytes(bench.page[64 : 64 + size]) == abi.pack_response(BlkifResponse(1, READ, OKAY))[:size]
    assert bench.page[64 + 9] == 0


def test_an_impossible_index_ends_the_ring(abi: Abi) -> None:
    bench = Bench(abi)
    bench.page[:16].cast("I")[0] = bench.ring.nr_ents + 1
    for _ in range(2):
        with pytest.raises(RingPeerError, match="33"):
            bench.engine.serve_batch()


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=112, max_size=112), st.booleans())
def test_any_bytes_in_a_slot_get_exactly_one_legal_answer(slot: bytes, native: bool) -> None:
    bench = Bench(X86_64 if native else X86_32)
    bench.ring.put(slot[: bench.abi.entry_size])
    bench.ring.push()
    bench.engine.serve_batch()
    answer = bench.ring.consume()
    assert answer is not None
    assert bench.ring.consume() is None
    assert bench.abi.parse_response(answer).status in (OKAY, ERROR, EOPNOTSUPP)
    assert bench.access.lent == 0
