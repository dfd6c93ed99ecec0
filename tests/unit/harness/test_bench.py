"""Whole runs on a frontend in memory: what is measured, what is checked, and how each fault ends a run."""

import errno
import itertools
import json
from typing import Any

import pytest

from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError
from xenblk.harness import BenchResult, Job, VerifyError, run_job
from xenblk.harness.workload import RW

BS = 4096


def job(**changes: Any) -> Job:
    """256 operations of 4 KiB, at most 8 at a time."""
    fields: dict[str, Any] = {"rw": "randrw", "bs": BS, "iodepth": 8, "seed": 1, "io_size": 1 << 20}
    return Job(**(fields | changes))


def of(frontend: Any, op: BlkifOp) -> int:
    """How many bios of this kind completed."""
    return sum(bio.op == op for bio in frontend.completed)


@pytest.mark.parametrize("rw", RW)
@pytest.mark.parametrize("seed", range(3))
def test_a_good_disk_passes_whatever_the_order_of_completions(make_frontend: Any, rw: str, seed: int) -> None:
    frontend = make_frontend(seed=seed)

    result = run_job(frontend, job(rw=rw), mode="copy")

    assert (result.mode, result.engine, result.rw, result.bs, result.iodepth) == ("copy", "python", rw, BS, 8)
    assert (result.ios, result.bytes, result.verified, result.seed) == (256, 1 << 20, True, 1)
    assert 0 < result.p50_us <= result.p99_us
    assert result.secs > 0
    assert result.iops == pytest.approx(result.ios / result.secs, rel=0.01)
    assert result.MBps == pytest.approx(result.bytes / result.secs / 1e6, rel=0.01)
    assert frontend.in_flight_peak == 8
    assert (frontend.in_flight, frontend.nr_allocated) == ([], 0)


def test_the_disk_is_the_same_after_any_order_of_completions(make_frontend: Any) -> None:
    frontends = [make_frontend(size=16 * BS, seed=seed) for seed in range(4)]
    for frontend in frontends:
        run_job(frontend, job(rw="randwrite"))

    assert any(frontends[0].disk)
    assert all(frontend.disk == frontends[0].disk for frontend in frontends)


def test_a_job_that_writes_ends_with_one_flush_and_then_the_audit_reads(make_frontend: Any) -> None:
    frontend = make_frontend()
    run_job(frontend, job(rw="write", io_size=10 * BS))

    ops = [bio.op for bio in frontend.completed]
    assert ops == [BlkifOp.WRITE] * 10 + [BlkifOp.FLUSH_DISKCACHE] + [BlkifOp.READ] * 10


def test_fsync_flushes_after_every_nth_write(make_frontend: Any) -> None:
    frontend = make_frontend()
    result = run_job(frontend, job(rw="write", io_size=10 * BS, fsync=3))

    assert of(frontend, BlkifOp.FLUSH_DISKCACHE) == 3 + 1
    assert result.ios == 10


def test_a_job_that_only_reads_sends_no_flush(make_frontend: Any) -> None:
    frontend = make_frontend()
    run_job(frontend, job(rw="randread"))

    assert of(frontend, BlkifOp.READ) == len(frontend.completed) > 256


def test_without_verify_nothing_is_checked_or_read_back(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.spoils = lambda _bio: True

    result = run_job(frontend, job(rw="write", verify=False))

    assert not result.verified
    assert of(frontend, BlkifOp.READ) == 0


class Image:
    """What can be read past the ring."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def pread(self, count: int, offset: int) -> bytes:
        return self.content[offset : offset + count]


def test_without_audit_nothing_is_read_back(make_frontend: Any) -> None:
    frontend = make_frontend()

    assert not run_job(frontend, job(rw="write"), audit=False).verified
    assert of(frontend, BlkifOp.READ) == 0


def test_initial_content_is_what_unwritten_blocks_must_hold(make_frontend: Any) -> None:
    image = Image(bytes(itertools.islice(itertools.cycle(range(251)), 1 << 20)))
    frontend = make_frontend()
    frontend.disk[:] = image.content

    run_job(frontend, job(), initial=image)
    frontend.disk[:] = image.content
    with pytest.raises(VerifyError, match="version 0"):
        run_job(frontend, job(rw="randread"))


def test_initial_content_that_nobody_knows_must_stay_what_it_is(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.disk[:] = bytes(itertools.islice(itertools.cycle(range(251)), 1 << 20))

    assert run_job(frontend, job(), initial="unknown").verified
    frontend.spoils = lambda bio: len(frontend.completed) % 3 == 0
    with pytest.raises(VerifyError, match="version 0"):
        run_job(frontend, job(rw="randread"), initial="unknown")


def test_what_a_job_wrote_is_known_to_the_next(make_frontend: Any) -> None:
    frontend = make_frontend()
    run_job(frontend, job(rw="write"))

    assert run_job(frontend, job(rw="randread"), initial="written").verified
    frontend.disk[7 * BS + 99] ^= 1
    with pytest.raises(VerifyError, match=r"block 7 at offset 28672 must hold version 1 .* byte is 99 "):
        run_job(frontend, job(rw="read"), initial="written")


def test_time_ends_a_job(make_frontend: Any) -> None:
    seen: list[tuple[int, int]] = []
    result = run_job(
        make_frontend(),
        job(io_size=None, runtime_s=0.05),
        progress=lambda done, total: seen.append((done, total)),
    )

    assert result.ios > 0
    assert result.secs >= 0.05
    assert seen[-1] == (50, 50)


def test_progress_counts_bytes_up_to_all_of_them(make_frontend: Any) -> None:
    seen: list[tuple[int, int]] = []
    run_job(make_frontend(), job(), progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert len(seen) >= 2
    assert seen[-1] == (1 << 20, 1 << 20)


def test_counters_are_what_the_measured_part_added(make_frontend: Any) -> None:
    frontend = make_frontend()
    cpu_s = iter((1.5, 4.0))

    result = run_job(
        frontend,
        job(rw="write", io_size=10 * BS, fsync=5),
        backend_counters=lambda: frontend.counters,
        backend_cpu_s=lambda: next(cpu_s),
    )

    assert result.counters == {"rd_req": 0, "wr_req": 10, "f_req": 3, "persistent_current": 7}
    assert result.requests == 13
    assert result.backend_cpu_s == 2.5


def test_the_json_has_the_promised_fields_and_comes_back(make_frontend: Any) -> None:
    result = run_job(make_frontend(), job())
    line = result.to_json()

    promised = (
        "mode engine rw bs iodepth numjobs ios secs iops MBps p50_us p99_us frontend_cpu_s backend_cpu_s "
        "counters verified"
    )
    assert "\n" not in line
    assert list(json.loads(line))[:16] == promised.split()
    assert BenchResult.from_dict(json.loads(line)) == result


def test_a_job_that_does_not_fit_is_refused_before_anything_is_allocated(make_frontend: Any) -> None:
    frontend = make_frontend(size=4 * BS)

    with pytest.raises(UsageError, match="iodepth 8 needs"):
        run_job(frontend, job())
    assert frontend.nr_allocated == 0


# Faults: each must be found, end the run with a sentence, and leave nothing in flight


def expect_fault(frontend: Any, fault: type[Exception], sentence: str, **changes: Any) -> Exception:
    """Run a job that must end so."""
    with pytest.raises(fault, match=sentence) as caught:
        run_job(frontend, job(**changes))
    assert frontend.in_flight == []
    assert frontend.nr_allocated == 0
    return caught.value


@pytest.mark.parametrize("op", [BlkifOp.READ, BlkifOp.WRITE])
def test_a_failed_operation_ends_the_run(make_frontend: Any, op: BlkifOp) -> None:
    frontend = make_frontend()
    frontend.fails = lambda bio: errno.EIO if bio.op == op and len(frontend.completed) > 50 else None

    error = expect_fault(frontend, OSError, f"the {op.name.lower()} of 4096 bytes at offset [0-9]+ failed: the fake")
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert len(frontend.completed) < 100


def test_a_failed_flush_ends_the_run(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.fails = lambda bio: errno.EIO if bio.buffer is None else None

    expect_fault(frontend, OSError, "the flush failed: the fake said so")


def test_a_backend_without_flush_will_do_unless_the_job_asks_for_flushes(make_frontend: Any) -> None:
    frontends = [make_frontend(), make_frontend()]
    for frontend in frontends:
        frontend.fails = lambda bio: errno.EOPNOTSUPP if bio.buffer is None else None

    assert run_job(frontends[0], job()).verified
    expect_fault(frontends[1], OSError, "the flush failed", fsync=4)


def test_a_disk_that_is_lost_at_a_submission_ends_the_run(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.lost_after = 100

    expect_fault(frontend, OSError, "the backend vanished")
    assert len(frontend.completed) == 100


@pytest.mark.parametrize("op", [BlkifOp.READ, BlkifOp.WRITE])
@pytest.mark.parametrize("nth", [0, 10, 100])
def test_one_lost_transfer_is_found(make_frontend: Any, op: BlkifOp, nth: int) -> None:
    frontend = make_frontend()
    numbers = itertools.count()
    frontend.spoils = lambda bio: bio.op == op and next(numbers) == nth

    # Every block is written once, or a later write could make the loss good.
    sentence = "block [0-9]+ at offset [0-9]+ must hold version [0-9]+ .* seed 1"
    expect_fault(frontend, VerifyError, sentence, rw="rw" if op == BlkifOp.READ else "write")


def test_a_write_that_lands_on_another_block_too_is_found(make_frontend: Any) -> None:
    frontend = make_frontend()

    def spill(bio: Any) -> bool:
        if bio.op == BlkifOp.WRITE and len(frontend.completed) == 100:
            place = bio.offset - 20 * BS
            frontend.disk[place : place + BS] = bio.buffer
        return False

    frontend.spoils = spill
    expect_fault(frontend, VerifyError, "under the header of block", rw="write")


def test_the_audit_finds_what_goes_bad_after_its_last_use(make_frontend: Any) -> None:
    frontend = make_frontend()

    def rot(bio: Any) -> int | None:
        if bio.op == BlkifOp.FLUSH_DISKCACHE:
            frontend.disk[5 * BS + 1000] ^= 1
        return None

    frontend.fails = rot
    expect_fault(frontend, VerifyError, "block 5 at offset 20480 .* first wrong byte is 1000", rw="write")


def test_a_slow_frontend_is_waited_for(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.lazy_polls = 7

    assert run_job(frontend, job()).ios == 256


def test_a_frontend_that_never_completes_is_given_up(make_frontend: Any) -> None:
    frontend = make_frontend()
    frontend.lazy_polls = 1 << 60

    with pytest.raises(OSError, match="none of 8 operations in flight completed for 0 s") as caught:
        run_job(frontend, job(), stall_timeout_s=0)
    assert caught.value.errno == errno.ETIMEDOUT
    assert frontend.nr_allocated == 8, "memory that the other side may still write to must stay"
