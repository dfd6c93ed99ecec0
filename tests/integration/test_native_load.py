"""The native load generator on a real connection: exact counts, stamps that hold, and ones that do not."""

import errno
from typing import Any

import pytest

from xenblk._native import lib
from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError
from xenblk.harness import VerifyError
from xenblk.harness.native_load import NativeLoad, run_native_load, stamp_disk

BS = 4096


@pytest.mark.parametrize(("read_percent", "random"), [(0, True), (100, True), (50, False), (70, True)])
@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
def test_a_count_of_operations(world: Any, read_percent: int, random: bool, persistent: bool) -> None:
    world.backend()
    domid = world.attach("memory:1M")
    frontend = world.frontend(domid, feature_persistent=persistent)
    load = NativeLoad(read_percent=read_percent, random=random, count=5000, iodepth=48, verify=True, seed=7)
    result = run_native_load(frontend, load)
    counts = world.counts(domid)
    assert result.ios == result.reads + result.writes == 5000
    assert (counts["rd_req"], counts["wr_req"]) == (result.reads, result.writes)
    assert (counts["rd_sect"], counts["wr_sect"]) == (8 * result.reads, 8 * result.writes)
    assert abs(result.reads - 50 * read_percent) < 200
    assert 0 <= result.verified <= result.reads
    assert (result.verified > 0) == (0 < read_percent < 100)
    assert 0 < result.p50_us <= result.p99_us <= result.max_us


def test_a_stamped_disk_is_verified_whole_and_a_wrong_block_found(world: Any) -> None:
    world.backend()
    disk = world.disk(world.attach("memory:256K"))
    stamp_disk(disk.size, BS, 3, disk.pwrite)
    load = NativeLoad(count=640, random=False, verify=True, stamped=True, seed=3, iodepth=8)
    assert run_native_load(disk.frontend, load).verified == 640
    disk.pwrite(bytes(512), 5 * BS)
    with pytest.raises(VerifyError, match=f"block 5 at offset {5 * BS} has the stamp 0x0000000000000000, not"):
        run_native_load(disk.frontend, load)
    assert disk.pread(512, 5 * BS) == bytes(512), "nothing is in flight, and the disk still works"


def test_an_operation_that_fails_ends_the_load(world: Any, image: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach(str(image), "r"))
    with pytest.raises(OSError, match="block") as raised:
        run_native_load(frontend, NativeLoad(read_percent=0, count=100))
    assert raised.value.errno == errno.EIO


def test_a_runtime_ends_the_load_with_nothing_in_flight(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach("memory:1M"))
    result = run_native_load(frontend, NativeLoad(runtime_s=0.1, bs=65536, iodepth=4))
    assert result.ios > 0
    assert result.secs >= 0.1
    bio = frontend.submit(BlkifOp.FLUSH_DISKCACHE)
    assert frontend.poll() == [bio]


def test_a_backend_that_dies_ends_the_load(world: Any, script: Any) -> None:
    backend = world.backend()
    frontend = world.frontend(world.attach("memory:1M"))
    killer = script("import os, sys, time; time.sleep(0.3); os.kill(int(sys.argv[1]), 9)", str(backend.pid))
    with pytest.raises(OSError) as raised:  # noqa: PT011 - how the loss is seen first is chance
        run_native_load(frontend, NativeLoad(runtime_s=20))
    assert raised.value.errno == errno.ENODEV
    killer.process.wait()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"bs": 100}, "multiple of 512"),
        ({"iodepth": 0}, "iodepth must be from 1 to 1024"),
        ({"iodepth": 257}, "needs as many blocks"),
        ({"read_percent": 101}, "read_percent must be from 0 to 100"),
        ({"runtime_s": 1}, "either count or runtime_s"),
        ({"count": 0}, "at least 1 operation"),
    ],
)
def test_what_no_disk_can_run_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        NativeLoad(**{"count": 1, **wrong}).check(1 << 20)


def test_the_python_engine_has_nothing_native_to_load(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach(), engine="python")
    with pytest.raises(UsageError, match="the engine of this disk is python, not native"):
        run_native_load(frontend, NativeLoad(count=1))


def test_bios_of_python_and_of_c_do_not_meet(world: Any) -> None:
    world.backend()
    frontend = world.frontend(world.attach())
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BS)))
    with pytest.raises(UsageError, match="poll them first"):
        run_native_load(frontend, NativeLoad(count=1))
    assert frontend.poll() == [bio]
    assert run_native_load(frontend, NativeLoad(count=1)).ios == 1


def test_buckets_are_exact_below_and_close_above() -> None:
    bounds = [lib.xb_load_bucket_ns(bucket) for bucket in range(lib.XB_LOAD_BUCKETS)]
    assert bounds[: lib.XB_LOAD_SUBBUCKETS] == list(range(lib.XB_LOAD_SUBBUCKETS))
    assert bounds == sorted(set(bounds))
    for low, high in zip(bounds[lib.XB_LOAD_SUBBUCKETS :], bounds[lib.XB_LOAD_SUBBUCKETS + 1 :], strict=False):
        assert (high - low) * lib.XB_LOAD_SUBBUCKETS <= low + 1
    assert bounds[-1] > 10**12
