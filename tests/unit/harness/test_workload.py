"""The stream: within the disk, the same for the same seed, and never twice in flight on one block."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError
from xenblk.harness.workload import BS_MAX, FLUSH, IODEPTH_MAX, NO_BLOCK, RW, Issuer, Job, Operation, operations


def job(**changes: object) -> Job:
    """A valid job on a disk of 1 MiB, with some fields changed."""
    fields: dict[str, object] = {"rw": "randrw", "bs": 4096, "iodepth": 8, "seed": 1}
    fields.update(changes)
    if "io_size" not in fields and "runtime_s" not in fields:
        fields["io_size"] = 1 << 20
    return Job(**fields)  # type: ignore[arg-type]


jobs = st.builds(
    job,
    rw=st.sampled_from(RW),
    bs=st.sampled_from([512, 4096, 4608]),
    iodepth=st.integers(1, 16),
    seed=st.integers(-(2**70), 2**70),
    io_size=st.integers(5000, 800_000),
    rwmixread=st.integers(0, 100),
    fsync=st.integers(0, 5),
)


def run_out_of_order(stream: list[Operation], iodepth: int, seed: int) -> list[Operation]:
    """Everything an Issuer hands out, in that order, with completions in a random order; checks blocks in flight."""
    rng = random.Random(seed)
    issuer = Issuer(iter(stream), iodepth)
    issued: list[Operation] = []
    in_flight: list[Operation] = []
    while True:
        while len(in_flight) < iodepth and (operation := issuer.take()) is not None:
            assert operation == FLUSH or operation.block not in {other.block for other in in_flight}
            issued.append(operation)
            in_flight.append(operation)
        if not in_flight:
            return issued
        for _ in range(rng.randint(1, len(in_flight))):
            issuer.done(in_flight.pop(rng.randrange(len(in_flight))))


@given(numjobs=st.integers(1, 256), size=st.integers(0, 1 << 24))
def test_jobs_side_by_side_never_meet_and_leave_little_over(numjobs: int, size: int) -> None:
    shares = job(numjobs=numjobs, seed=3).shares(size)

    assert [share.queue for share in shares] == list(range(numjobs))
    assert len({share.seed for share in shares}) == numjobs
    ends = [share.offset + share.nr_blocks * 4096 for share in shares]
    assert [share.offset for share in shares] == [0, *ends[:-1]]
    assert size - 4096 * numjobs < ends[-1] <= size
    assert shares[0].seed == 3, "one job alone is what it was"


@given(job=jobs, nr_blocks=st.integers(1, 300))
def test_same_job_same_stream_within_the_disk(job: Job, nr_blocks: int) -> None:
    stream = list(operations(job, nr_blocks))

    assert stream == list(operations(job, nr_blocks))
    data = [operation for operation in stream if operation != FLUSH]
    assert len(data) == job.nr_operations
    assert all(0 <= operation.block < nr_blocks for operation in data)
    assert {operation.op for operation in data} <= {BlkifOp.READ} if not job.writes else {BlkifOp.READ, BlkifOp.WRITE}


@given(job=jobs, nr_blocks=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_no_block_is_in_flight_twice_and_each_block_sees_the_streams_order(job: Job, nr_blocks: int, seed: int) -> None:
    stream = list(operations(job, nr_blocks))

    issued = run_out_of_order(stream, job.iodepth, seed)

    assert sorted(issued) == sorted(stream)
    for block in range(nr_blocks):
        assert [o for o in issued if o.block == block] == [o for o in stream if o.block == block]


def test_other_operations_overtake_one_that_waits_up_to_the_bound() -> None:
    stream = [Operation(BlkifOp.WRITE, block) for block in (7, 7, 1, 7, 2, 3)]
    issuer = Issuer(iter(stream), nr_waiting_max=2)

    assert [issuer.take(), issuer.take(), issuer.take()] == [stream[0], stream[2], None]
    issuer.done(stream[0])
    assert [issuer.take(), issuer.take(), issuer.take(), issuer.take()] == [stream[1], stream[4], stream[5], None]


def test_different_seeds_give_different_streams() -> None:
    assert list(operations(job(seed=1), 256)) != list(operations(job(seed=2), 256))


def test_sequential_streams_go_through_the_disk_and_start_again() -> None:
    stream = operations(job(rw="write", io_size=5 * 4096), 3)

    assert [operation.block for operation in stream] == [0, 1, 2, 0, 1]


def test_sequential_mix_reads_and_writes_at_two_places() -> None:
    stream = list(operations(job(rw="rw"), 1000))

    for op in (BlkifOp.READ, BlkifOp.WRITE):
        blocks = [operation.block for operation in stream if operation.op == op]
        assert len(blocks) > 50
        assert blocks == list(range(len(blocks)))


@pytest.mark.parametrize(("rwmixread", "ops"), [(0, {BlkifOp.WRITE}), (100, {BlkifOp.READ})])
def test_the_ends_of_the_mix(rwmixread: int, ops: set[BlkifOp]) -> None:
    assert {operation.op for operation in operations(job(rwmixread=rwmixread), 256)} == ops


def test_mix_is_near_its_share_of_reads() -> None:
    stream = list(operations(job(rwmixread=70, io_size=4096 * 10_000), 256))

    assert 0.67 < sum(operation.op == BlkifOp.READ for operation in stream) / len(stream) < 0.73


def test_a_flush_follows_every_nth_write() -> None:
    stream = operations(job(rw="write", io_size=5 * 4096, fsync=2), 256)

    assert [operation.block for operation in stream] == [0, 1, NO_BLOCK, 2, 3, NO_BLOCK, 4]


def test_a_job_that_time_ends_has_an_endless_stream() -> None:
    stream = operations(job(runtime_s=0.5), 4)

    assert len(list(itertools.islice(stream, 1000))) == 1000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rw": "trim"}, "rw must be one of .*'trim'"),
        ({"bs": 0}, "bs must be a multiple of 512 from 512 to 1048576 bytes, not 0"),
        ({"bs": 1000}, "bs must be .* not 1000"),
        ({"bs": BS_MAX + 512}, "bs must be .* not 1049088"),
        ({"iodepth": 0}, "iodepth must be from 1 to 1024, not 0"),
        ({"iodepth": IODEPTH_MAX + 1}, "iodepth must be from 1 to 1024, not 1025"),
        ({"io_size": None, "runtime_s": None}, "either io_size or runtime_s, not None and None"),
        ({"io_size": 4096, "runtime_s": 1.0}, "either io_size or runtime_s, not 4096 and 1.0"),
        ({"io_size": 4095}, "io_size must be at least one block of 4096 bytes, not 4095"),
        ({"runtime_s": 0.0}, "runtime_s must be more than 0"),
        ({"runtime_s": float("nan")}, "runtime_s must be .* not nan"),
        ({"runtime_s": float("inf")}, "runtime_s must be .* not inf"),
        ({"rwmixread": 101}, "rwmixread must be from 0 to 100 per cent, not 101"),
        ({"fsync": -1}, "fsync must be 0 or more writes, not -1"),
        ({"iodepth": 257}, "iodepth 257 needs as many blocks of 4096 bytes, and the disk of 1048576 bytes has 256"),
    ],
)
def test_check_names_the_value_and_the_bound(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        job(**changes).check(1 << 20)


@pytest.mark.parametrize("changes", [{}, {"iodepth": 256}, {"bs": BS_MAX, "iodepth": 1}, {"runtime_s": 0.001}])
def test_check_accepts_the_bounds(changes: dict[str, object]) -> None:
    job(**changes).check(1 << 20)
