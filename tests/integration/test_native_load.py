"""Jobs in C on a real connection: exact counts, data that is checked, and each way for a run to end badly."""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk._native import lib
from xenblk.blkif import BlkifOp
from xenblk.disk import FileDisk
from xenblk.errors import UsageError
from xenblk.harness import Job, VerifyError, run_job
from xenblk.harness.workload import RW

BS = 4096


def job(**changes: Any) -> Job:
    """2000 operations of 4 KiB, at most 48 at a time."""
    fields: dict[str, Any] = {"rw": "randrw", "bs": BS, "iodepth": 48, "seed": 7}
    if "runtime_s" not in changes:
        fields["io_size"] = 2000 * BS
    return Job(**(fields | changes))


@pytest.fixture
def attached(world: Any, image: Path) -> Callable[..., Any]:
    """A frontend on the image."""

    def attach(**options: Any) -> Any:
        world.backend()
        return world.frontend(world.attach(str(image)), **options)

    return attach


def flip(image: Path, offset: int) -> None:
    """Change a byte behind the backend's back."""
    with image.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
def test_a_number_of_operations(world: Any, persistent: bool) -> None:
    world.backend()
    domid = world.attach("memory:1M")
    frontend = world.frontend(domid, feature_persistent=persistent)
    for rw in RW:
        found = run_job(
            frontend, job(rw=rw), initial="unknown", audit=False, backend_counters=lambda: world.counts(domid)
        )
        counts = found.counters
        assert (found.engine, found.rw, found.ios, found.bytes) == ("native", rw, 2000, 2000 * BS)
        assert counts["rd_req"] + counts["wr_req"] == 2000
        assert (counts["rd_sect"], counts["wr_sect"]) == (8 * counts["rd_req"], 8 * counts["wr_req"])
        assert counts["f_req"] == (0 if rw.endswith("read") else 1)
        assert found.requests == 2000 + counts["f_req"]
        share = {"read": 1, "write": 0, "rw": 0.5}[rw.removeprefix("rand")]
        assert abs(counts["rd_req"] - share * 2000) < (200 if share == 0.5 else 1)
        assert 0 < found.p50_us <= found.p99_us


@pytest.mark.parametrize("engine", ["native", "python"])
def test_what_depends_on_the_number_of_operations_is_the_same_in_both_engines(world: Any, engine: str) -> None:
    world.backend("--engine", engine)
    domid = world.attach("memory:1M")
    frontend = world.frontend(domid, engine=engine)
    for fsync, flushes in ((0, 1), (7, 15), (100, 2)):
        before = world.counts(domid)
        written = job(rw="write", io_size=100 * BS, fsync=fsync)
        found = run_job(frontend, written, backend_counters=lambda: world.counts(domid))
        assert (found.engine, found.ios, found.verified) == (engine, 100, True)
        assert (found.counters["wr_req"], found.counters["f_req"]) == (100, flushes)
        after = world.counts(domid)
        assert after["rd_req"] - before["rd_req"] == 100, "the audit reads each block once"
        assert after["f_req"] - before["f_req"] == flushes


def test_rwmixread_and_bs(world: Any) -> None:
    world.backend()
    domid = world.attach("memory:4M")
    mixed = job(rwmixread=80, bs=65536, iodepth=8, io_size=1000 * 65536)
    found = run_job(world.frontend(domid), mixed, backend_counters=lambda: world.counts(domid))
    assert 740 < found.counters["rd_req"] < 860, "16 pages in one indirect request"
    assert found.counters["rd_sect"] + found.counters["wr_sect"] == 1000 * 128


def test_what_an_image_held_is_checked(attached: Any, image: Path) -> None:
    image.write_bytes(os.urandom(1 << 20))
    frontend = attached()
    with contextlib.closing(FileDisk(str(image), read_only=True)) as disk:
        for initial in (disk, "unknown"):
            for rw in ("randread", "randrw"):
                check_rot_is_found(frontend, image, job(rw=rw, io_size=4000 * BS), initial)


def check_rot_is_found(frontend: Any, image: Path, work: Job, initial: Any) -> None:
    """A byte that changes after the last operation is found by the audit, which leaves the disk usable."""
    assert run_job(frontend, work, initial=initial).verified
    flips = iter([100 * BS + 1234])

    def rot(done: int, total: int) -> None:
        if done == total:
            for offset in flips:
                flip(image, offset)

    with pytest.raises(VerifyError, match=rf"^block 100 at offset {100 * BS} must hold version \d+( |;).* seed 7$"):
        run_job(frontend, work, initial=initial, progress=rot)


def test_a_block_that_is_wrong_at_the_start_is_found_while_the_job_runs(attached: Any, image: Path) -> None:
    frontend = attached()
    flip(image, 5 * BS + 4095)
    with pytest.raises(VerifyError, match="block 5 at offset 20480 must hold version 0 with checksum 0x0000"):
        run_job(frontend, job(rw="read"), audit=False)


def test_what_a_job_wrote_is_known_to_the_next_to_the_byte(attached: Any, image: Path) -> None:
    frontend = attached()
    run_job(frontend, job(rw="write", io_size=frontend.size))
    assert run_job(frontend, job(rw="randread"), initial="written").verified
    flip(image, 9 * BS + 3333)
    sentence = "block 9 at offset 36864 must hold version 1; the first wrong byte is 3333 of 4096, under the stamp of "
    with pytest.raises(VerifyError, match=sentence + "block 9, sector 6, version 1; seed 7"):
        run_job(frontend, job(rw="read"), initial="written")


def test_a_write_that_went_elsewhere_says_whose_it_is(attached: Any, image: Path) -> None:
    frontend = attached()
    run_job(frontend, job(rw="write", io_size=frontend.size))
    data = image.read_bytes()
    with image.open("r+b") as file:
        file.seek(3 * BS)
        file.write(data[200 * BS : 201 * BS])
    with pytest.raises(VerifyError, match=r"block 3 .* byte is 0 .* of block 200, sector 0, version 1; seed 7"):
        run_job(frontend, job(rw="read"), initial="written")


def test_any_seed_will_do_and_gives_the_same_data_again(attached: Any, image: Path) -> None:
    frontend = attached()
    contents = []
    for seed in (-1, -1, 1 << 70, 1 << 70, 2):
        with image.open("r+b") as file:
            file.write(bytes(4 << 20))
        run_job(frontend, job(seed=seed))
        contents.append(image.read_bytes())
    assert contents[0] == contents[1]
    assert contents[2] == contents[3]
    assert len({*contents}) == 3


def test_an_operation_that_fails_ends_the_run(attached: Any, image: Path) -> None:
    frontend = attached()
    os.truncate(image, 1 << 20)
    with pytest.raises(OSError, match="failed") as raised:
        run_job(frontend, job(rw="randread"))
    assert raised.value.errno == errno.EIO
    found = re.fullmatch(
        r"the read of 4096 bytes at offset (\d+) failed: the backend answered status -1 to READ at \1",
        str(raised.value.strerror),
    )
    assert found
    assert int(found[1]) >= 1 << 20
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BS)))
    assert frontend.poll() == [bio]


def test_a_read_only_disk_is_not_written(world: Any, image: Path) -> None:
    world.backend()
    frontend = world.frontend(world.attach(str(image), "r"))
    with pytest.raises(OSError, match="disk xvda is read-only") as raised:
        run_job(frontend, job(rw="rw"))
    assert raised.value.errno == errno.EROFS
    assert run_job(frontend, job(rw="read")).verified


def test_a_runtime_ends_the_run(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach("memory:1M"))
    seen: list[tuple[int, int]] = []
    timed = job(runtime_s=0.3, bs=65536, iodepth=4)
    result = run_job(frontend, timed, progress=lambda done, total: seen.append((done, total)))
    assert result.ios > 0
    assert result.secs >= 0.3
    assert result.verified
    assert len(seen) > 1
    assert seen[-1] == (300, 300)


def test_progress_counts_bytes(world: Any) -> None:
    world.backend()
    seen: list[tuple[int, int]] = []
    run_job(world.frontend(world.attach()), job(), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (2000 * BS, 2000 * BS)


def test_an_interrupt_leaves_nothing_in_flight(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach())

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(frontend, job(runtime_s=60), progress=interrupt)
    assert run_job(frontend, job(), initial="unknown").verified


def test_a_backend_that_does_nothing_is_given_up(world: Any) -> None:
    backend = world.backend()
    frontend = world.frontend(world.attach())
    backend.signal(signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match=r"none of 48 operations in flight completed for 0\.1 s") as raised:
            run_job(frontend, job(), stall_timeout_s=0.1)
    finally:
        backend.signal(signal.SIGCONT)
    assert raised.value.errno == errno.ETIMEDOUT


def test_a_backend_that_dies_ends_the_run(world: Any, script: Any) -> None:
    backend = world.backend()
    frontend = world.frontend(world.attach("memory:1M"))
    killer = script("import os, sys, time; time.sleep(0.3); os.kill(int(sys.argv[1]), 9)", str(backend.pid))
    with pytest.raises(OSError) as raised:  # noqa: PT011 - how the loss is seen first is chance
        run_job(frontend, job(runtime_s=20))
    assert raised.value.errno == errno.ENODEV
    killer.process.wait()


def test_bios_of_python_and_of_c_do_not_meet(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach())
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BS)))
    with pytest.raises(UsageError, match="poll them first"):
        run_job(frontend, job())
    assert frontend.poll() == [bio]
    assert run_job(frontend, job()).verified


def test_buckets_are_exact_below_and_close_above() -> None:
    bounds = [lib.xb_load_bucket_ns(bucket) for bucket in range(lib.XB_LOAD_BUCKETS)]
    assert bounds[: lib.XB_LOAD_SUBBUCKETS] == list(range(lib.XB_LOAD_SUBBUCKETS))
    assert bounds == sorted(set(bounds))
    for low, high in zip(bounds[lib.XB_LOAD_SUBBUCKETS :], bounds[lib.XB_LOAD_SUBBUCKETS + 1 :], strict=False):
        assert (high - low) * lib.XB_LOAD_SUBBUCKETS <= low + 1
    assert bounds[-1] > 10**12
