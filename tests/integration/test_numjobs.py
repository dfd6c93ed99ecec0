"""Jobs side by side on one disk, each on a ring of its own: exact counts, data that is checked, and how they end."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from xenblk.cli.commands import cli
from xenblk.errors import UsageError
from xenblk.harness import Job, VerifyError, run_job

BS = 4096
MANY = {"rw": "randrw", "bs": BS, "iodepth": 16, "seed": 7}


def job(numjobs: int, **changes: Any) -> Job:
    """500 operations per job, unless a time is given."""
    amount = {} if "runtime_s" in changes else {"io_size": 500 * BS}
    return Job(**{**MANY, **amount, "numjobs": numjobs, **changes})


def connected(world: Any, disk: str, nr_queues: int, **options: Any) -> tuple[Any, Any]:
    """A frontend with so many rings, and the domain."""
    world.backend("--max-queues", str(nr_queues))
    domid = world.attach(disk)
    return world.frontend(domid, nr_queues=nr_queues, **options), domid


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not persistent"])
def test_each_job_uses_its_own_ring(world: Any, persistent: bool) -> None:
    frontend, domid = connected(world, "memory:3M", 3, feature_persistent=persistent)
    result = run_job(frontend, job(3), audit=False)
    assert (result.numjobs, result.ios, result.bytes) == (3, 1500, 1500 * BS)
    assert 0 < result.p50_us <= result.p99_us
    per_ring = [world.counts(domid, queue=queue) for queue in range(3)]
    assert [counts["rd_req"] + counts["wr_req"] for counts in per_ring] == [500, 500, 500]
    assert sum(counts["f_req"] for counts in per_ring) == 1
    assert len({counts["rd_req"] for counts in per_ring}) > 1, "each job has a seed of its own"


def test_every_byte_is_checked_and_the_same_again(world: Any, image: Path) -> None:
    image.write_bytes(os.urandom(1 << 20))
    before = image.read_bytes()
    frontend, _ = connected(world, str(image), 2)
    contents = []
    for _ in range(2):
        image.write_bytes(before)
        assert run_job(frontend, job(2), initial="unknown").verified
        contents.append(image.read_bytes())
    assert contents[0] == contents[1]
    half = len(before) // 2
    assert all(contents[0][at : at + half] != before[at : at + half] for at in (0, half))


def test_a_wrong_byte_in_the_part_of_the_second_is_found_at_its_place(world: Any, image: Path) -> None:
    frontend, _ = connected(world, str(image), 2)
    half = frontend.size // 2
    run_job(frontend, job(2, rw="write", io_size=half))
    with image.open("r+b") as file:
        file.seek(half + 5 * BS)
        file.write(b"?")
    with pytest.raises(VerifyError, match=rf"block 5 at offset {half + 5 * BS} must hold version 1; .* seed 7"):
        run_job(frontend, job(2, rw="read", io_size=half), initial="written")


def test_the_first_that_fails_ends_all(world: Any, image: Path) -> None:
    frontend, _ = connected(world, str(image), 2)
    os.truncate(image, frontend.size // 2)
    with pytest.raises(OSError, match=r"read of 4096 bytes at offset \d+ failed") as raised:
        run_job(frontend, job(2, rw="randread", runtime_s=600))
    assert raised.value.errno == errno.EIO
    assert run_job(frontend, job(1, rw="read", io_size=BS * 16)).ios == 16


def test_a_backend_that_dies_ends_all_with_a_sentence(world: Any, script: Any) -> None:
    backend = world.backend("--max-queues", "2")
    frontend = world.frontend(world.attach("memory:1M"), nr_queues=2)
    killer = script("import os, sys, time; time.sleep(0.3); os.kill(int(sys.argv[1]), 9)", str(backend.pid))
    with pytest.raises(OSError, match=r"vanished|removed|closed") as raised:
        run_job(frontend, job(2, runtime_s=600))
    assert raised.value.errno == errno.ENODEV
    killer.process.wait()


def test_an_interrupt_leaves_nothing_in_flight(world: Any) -> None:
    frontend, _ = connected(world, "memory:1M", 2)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(frontend, job(2, runtime_s=600), progress=interrupt)
    assert run_job(frontend, job(2), initial="unknown").verified


def test_a_job_without_a_ring_is_refused(world: Any) -> None:
    frontend, _ = connected(world, "memory:1M", 1)
    with pytest.raises(UsageError, match="2 jobs need a ring each, and the backend gave 1"):
        run_job(frontend, job(2))
    with pytest.raises(UsageError, match="2 jobs side by side need the native engine, not python"):
        run_job(world.frontend(world.attach(), engine="python"), job(2))


def test_bench_adds_up_its_rings(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    world.backend("--max-queues", "3")
    domid = world.attach("memory:1M")
    where = ["--run-dir", str(world.run_dir), "--domid", str(domid)]
    what = ["--numjobs", "2", "--nr-queues", "3", "--rw", "randread", "--io-size", str(500 * BS), "--json"]
    cli(["bench", *where, *what], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (found["numjobs"], found["ios"], found["requests"], found["verified"]) == (2, 1000, 1000, True)
    assert (found["counters"]["rd_req"], found["counters"]["rd_sect"]) == (1000, 8000)


def test_compare_runs_them_in_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    what = ["--numjobs", "2", "--iodepth", "4", "--disk", "memory:1M", "--io-size", str(200 * BS), "--json"]
    cli(["compare", "--modes", "persistent,bounded", "--rw", "write", *what], standalone_mode=False)
    modes = {mode["mode"]: mode for mode in json.loads(capsys.readouterr().out)["modes"]}
    assert list(modes) == ["persistent", "bounded"]
    for found in modes.values():
        assert (found["numjobs"], found["ios"], found["counters"]["wr_req"]) == (2, 400, 400)
        assert (found["counters"]["f_req"], found["verified"]) == (1, True)
    assert modes["bounded"]["counters"]["persistent_peak"] == 4, "two pages of four, on each of two rings"
