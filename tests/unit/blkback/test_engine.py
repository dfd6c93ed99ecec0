"""The data path's answers: a row per check of Linux's blkback, for both layouts, and what reaches the disk."""

from collections.abc import Callable

import pytest
from engines.bench import ENGINES, Bench
from engines.sides import DISK_SECTORS as SECTORS
from hypothesis import given, settings
from hypothesis import strategies as st

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
from xenblk.errors import RingPeerError

OKAY, ERROR, EOPNOTSUPP = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
READ, WRITE, FLUSH = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE
WHOLE = BlkifSegment(8, 0, 7)


@pytest.mark.parametrize("operation", [4, 7, 200, 255])
def test_unknown_operations(make: Callable[..., Bench], abi: Abi, operation: int) -> None:
    assert make(abi).status(operation, WHOLE) == EOPNOTSUPP


def test_segment_counts(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi)
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
def test_segment_bounds_at_either_end_of_a_request(
    make: Callable[..., Bench], abi: Abi, first: int, last: int, status: int, position: int
) -> None:
    segments = [BlkifSegment(ref, 0, 0) for ref in range(8, 19)]
    segments[position] = BlkifSegment(8 + position, first, last)
    assert make(abi).status(READ, *segments) == status


def test_the_end_of_the_disk(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi)
    assert bench.status(READ, WHOLE, sector=SECTORS - 8) == OKAY
    assert bench.status(READ, WHOLE, sector=SECTORS - 7) == ERROR
    assert bench.status(READ, WHOLE, sector=SECTORS) == ERROR
    assert bench.status(WRITE, WHOLE, sector=(1 << 64) - 1) == ERROR
    assert bench.status(WRITE, WHOLE, sector=(1 << 64) - 8) == ERROR
    assert bench.status(FLUSH, sector=(1 << 64) - 1) == OKAY, "a flush without data has no sectors to check"


def test_a_read_only_disk(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi, read_only=True)
    assert bench.status(READ, WHOLE) == OKAY
    assert bench.status(WRITE, WHOLE) == ERROR
    assert bench.status(FLUSH) == ERROR


@pytest.mark.parametrize("position", range(11))
def test_an_ungranted_page_at_any_position(make: Callable[..., Bench], abi: Abi, position: int) -> None:
    segments = [BlkifSegment(ref, 0, 0) for ref in range(8, 19)]
    segments[position] = BlkifSegment(0xFFFFFFFF, 0, 0)
    assert make(abi).status(WRITE, *segments) == ERROR


def test_the_first_thing_wrong_decides(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi, read_only=True)
    assert bench.status(9, nr_segments=200, sector=1 << 60) == EOPNOTSUPP
    assert bench.counters.snapshot()["wr_req"] == 0
    assert bench.status(WRITE, BlkifSegment(1, 7, 0), sector=1 << 60) == ERROR
    assert bench.counters.snapshot()["wr_req"] == 1, "a request is counted when it is dispatched"
    assert bench.counters.snapshot()["wr_sect"] == 0, "sectors only when they moved"


def test_data_goes_where_it_belongs(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi)
    bench.memory(9)[512:1536] = b"A" * 512 + b"B" * 512
    bench.memory(10)[4096 - 512 :] = b"C" * 512
    assert bench.status(WRITE, BlkifSegment(9, 1, 2), BlkifSegment(10, 7, 7), sector=5) == OKAY
    assert bench.disk.pread(3 * 512, 5 * 512) == b"A" * 512 + b"B" * 512 + b"C" * 512
    assert bench.status(READ, BlkifSegment(20, 3, 5), sector=5) == OKAY
    assert bytes(bench.memory(20)) == bytes(1536) + b"A" * 512 + b"B" * 512 + b"C" * 512 + bytes(1024)
    counts = bench.counters.snapshot()
    assert (counts["rd_req"], counts["wr_req"], counts["rd_sect"], counts["wr_sect"]) == (1, 1, 3, 3)


def test_a_full_ring_is_answered_in_one_batch_with_one_notification(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi)
    requests = [BlkifRequest(READ, 0, n, 0, 1, (WHOLE,)) for n in range(bench.ring.nr_ents)]
    assert [answer.id for answer in bench.ask(*requests)] == list(range(32))
    assert bench.counters.snapshot()["notify_sent"] == 1


@pytest.mark.parametrize("operation", [READ, 6, 99])
def test_xsa_216_response_padding_is_zero(make: Callable[..., Bench], abi: Abi, operation: int) -> None:
    bench = make(abi, max_indirect_segments=0)
    bench.page[64:] = b"\xaa" * (4096 - 64)
    (answer,) = bench.ask(BlkifRequest(operation, 0, 1, 0, 1, (WHOLE,)))
    size = 16 if abi is X86_64 else 12
    status = OKAY if operation == READ else EOPNOTSUPP
    assert bytes(bench.page[64 : 64 + size]) == abi.pack_response(BlkifResponse(answer.id, operation, status))[:size]
    assert bench.page[64 + 9] == 0


def test_an_impossible_index_ends_the_ring(make: Callable[..., Bench], abi: Abi) -> None:
    bench = make(abi)
    bench.page[:16].cast("I")[0] = bench.ring.nr_ents + 1
    for _ in range(2):
        with pytest.raises(RingPeerError, match="33"):
            bench.serve()


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=112, max_size=112), st.sampled_from([X86_64, X86_32]), st.sampled_from(sorted(ENGINES)))
def test_any_bytes_in_a_slot_get_exactly_one_legal_answer(slot: bytes, abi: Abi, engine: str) -> None:
    bench = Bench(abi, engine)
    (answer,) = bench.ask(slot[: abi.entry_size])
    assert answer.status in (OKAY, ERROR, EOPNOTSUPP)
    bench.close()
