"""The command: what it does, and what it says when it cannot."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenblk.errors import HostError
from xenblk.toolstack import attach, detach

MARK = "XENBLK_TEST_MARK"


def xenblk(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "xenblk", *args],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def processes_marked(mark: str) -> list[str]:
    """Command lines of the processes that were started with a mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (["copy", "a", "b"], 2, "one of SOURCE and DESTINATION is a virtual disk, written vbd:xvda"),
        (["copy", "nothing.img", "vbd:xvda", "--disk", "memory:1M"], 1, "there is no disk image nothing.img"),
        (["copy", "odd.img", "vbd:xvda", "--disk", "memory:1M"], 1, "multiple of 512 bytes; odd.img has 1000"),
        (["copy", "ok.img", "vbd:elephant", "--disk", "memory:1M"], 2, "named like xvda, xvdb1, sda or hda"),
        (
            ["copy", "ok.img", "vbd:xvda", "--disk", "memory:512"],
            1,
            "ok.img has 8192 bytes, and the virtual disk only 512",
        ),
        (["copy", "ok.img", "vbd:xvda", "--disk", "nothing.img"], 1, "there is no disk image nothing.img"),
        (["backend", "--persistent-grant-unused-seconds", "inf"], 2, "is not in the range 0<=x<=1000000000"),
        (["backend", "--persistent-grant-unused-seconds", "nan"], 2, "is 0 to 1000000000, not nan"),
        (["compare", "--disk", "nothing.img"], 1, "there is no disk image nothing.img"),
        (["compare", "--disk", "odd.img"], 1, "multiple of 512 bytes; odd.img has 1000, which leaves 488"),
        (["compare", "--disk", "empty.img"], 1, "empty.img has 0 bytes"),
        (["compare", "--disk", "."], 1, "is a directory, not a disk image"),
        (["compare", "--disk", "memory:1.5M"], 1, "a size is a number of bytes"),
        (["compare", "--bs", "100"], 2, "bs must be a multiple of 512"),
        (["compare", "--bs", "8M"], 2, "bs must be a multiple of 512"),
        (["compare", "--iodepth", "0"], 2, "iodepth must be from 1 to 1024, not 0"),
        (["compare", "--modes", "warp"], 2, "'warp' is not one of persistent, map, bounded, copy"),
        (["compare", "--rw", "sideways"], 2, "'sideways' is not one of"),
        (["compare", "--io-size", "1M", "--runtime", "1"], 2, "exclude each other"),
        (["compare", "--engine", "steam"], 2, "'steam' is not one of"),
        (["compare", "--numjobs", "0"], 2, "0 is not in the range 1<=x<=256"),
        (["compare", "--numjobs", "2", "--engine", "python"], 2, "--numjobs 2 needs the native engine"),
        (["compare", "--numjobs", "200", "--disk", "memory:1M"], 2, "has for each of 200 jobs 1"),
        (["bench", "--numjobs", "3", "--nr-queues", "2"], 2, "3 jobs need a ring each, and --nr-queues is 2"),
        (["bench", "--protocol", "arm-abi"], 2, "'arm-abi' is not one of"),
        (["compare", "--poll-us", "-1"], 2, "-1 is not in the range"),
        (["compare", "--pin-frontend", "one"], 2, "CPUs are numbers and ranges such as 0,2-3, not 'one'"),
        (["compare", "--pin-backend", "99999"], 2, "this process may not run on '99999'"),
        (["compare", "--warp"], 2, "No such option"),
        (["warp"], 2, "No such command 'warp'"),
        (["host", "--run-dir", "ok.img/x"], 1, "cannot be used"),
        (["host", "--run-dir", "x" * 120], 1, "too long a path"),
        (["backend", "--run-dir", "none"], 1, "no emulated Xen answers"),
        (["backend", "--run-dir", "none", "--max-ring-page-order", "5"], 2, "max_ring_page_order is 0 to 4, not 5"),
        (["attach", "--run-dir", "none", "--disk", "ok.img"], 1, "start one with `xenblk host`"),
        (["attach", "--run-dir", "none", "--disk", "ok.img", "--mode", "rw"], 2, "'rw' is not one of"),
        (["list", "--run-dir", "none"], 1, "no emulated Xen answers"),
        (["bench", "--run-dir", "none"], 1, "no emulated Xen answers"),
    ],
)
def test_what_cannot_be_done_is_one_clear_sentence(tmp_path: Path, args: list[str], status: int, sentence: str) -> None:
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    (tmp_path / "ok.img").write_bytes(bytes(8192))
    (tmp_path / "empty.img").touch()
    done = xenblk(*args, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.img", "odd.img", "ok.img"]


@pytest.mark.parametrize("engine", ["native", "python"])
def test_compare_as_json(image: Path, engine: str) -> None:
    workload = ["--io-size", "1M", "--iodepth", "8", "--disk", str(image), "--rw", "randrw"]
    done = xenblk("compare", *workload, "--json", "--engine", engine)
    assert done.returncode == 0, done.stderr
    modes = {mode["mode"]: mode for mode in json.loads(done.stdout)["modes"]}
    assert list(modes) == ["persistent", "map", "bounded", "copy"]
    pages = 256
    assert {m["verified"] for m in modes.values()} == {True}
    assert {m["engine"] for m in modes.values()} == {engine}
    assert {m["ios"] for m in modes.values()} == {pages}
    counts = {name: mode["counters"] for name, mode in modes.items()}
    assert (counts["persistent"]["map_pages"], counts["persistent"]["persistent_hits"]) == (8, pages - 8)
    assert (counts["map"]["map_pages"], counts["map"]["unmap_pages"]) == (pages, pages)
    # Half of the requests find their page kept, 4 of 8, if all 8 are under way; the fewer are at a time, the more.
    assert counts["bounded"]["persistent_current"] == 4
    assert counts["bounded"]["persistent_hits"] + counts["bounded"]["map_pages"] == pages
    assert pages // 4 <= counts["bounded"]["persistent_hits"] < pages
    assert (counts["copy"]["map_pages"], counts["copy"]["copy_pages"]) == (0, pages)


def test_compare_leaves_an_image_alone_unless_it_is_told_to_write(image: Path) -> None:
    with image.open("r+b") as file:
        file.write(b"precious")
    before = image.read_bytes()
    image.chmod(0o400)
    assert xenblk("compare", "--io-size", "256K", "--disk", str(image), "--modes", "map").returncode == 0
    assert image.read_bytes() == before


def test_compare_with_its_ends_on_a_cpu_each_and_without_polling(image: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    pins = ["--pin-frontend", str(cpus[0]), "--pin-backend", f"{cpus[-1]}", "--poll-us", "0"]
    done = xenblk("compare", *pins, "--io-size", "1M", "--disk", str(image), "--modes", "map", "--json")
    assert done.returncode == 0, done.stderr
    (mode,) = json.loads(done.stdout)["modes"]
    assert mode["counters"]["map_pages"] == 256


def test_compare_goes_around_the_page_cache_where_the_file_system_can(image: Path) -> None:
    done = xenblk("compare", "--direct", "--io-size", "1M", "--disk", str(image), "--modes", "persistent", "--json")
    try:
        os.close(os.open(image, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        assert done.returncode == 1
        assert "xenblk: " in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_copy_in_and_out(tmp_path: Path) -> None:
    (tmp_path / "in.img").write_bytes(random.Random(3).randbytes(3 << 20))
    (tmp_path / "disk.img").write_bytes(bytes(4 << 20))
    assert xenblk("copy", "in.img", "vbd:xvdb", "--disk", "disk.img", cwd=tmp_path).returncode == 0
    assert (tmp_path / "disk.img").read_bytes()[: 3 << 20] == (tmp_path / "in.img").read_bytes()
    out = xenblk("copy", "vbd:sda", "out.img", "--disk", "disk.img", "--no-feature-persistent", cwd=tmp_path)
    assert out.returncode == 0
    assert (tmp_path / "out.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def test_attach_list_detach(world: Any, image: Path) -> None:
    where = ["--run-dir", str(world.run_dir)]
    lonely = xenblk("detach", *where, "--domid", "3")
    assert (lonely.returncode, lonely.stderr) == (2, "xenblk: domain 3 has no disk xvda\n")
    world.backend()
    assert (
        xenblk("attach", *where, "--domid", "3", "--vdev", "xvdc", "--disk", str(image), "--mode", "r").returncode == 0
    )
    twice = xenblk("attach", *where, "--domid", "3", "--vdev", "xvdc", "--disk", str(image))
    assert (twice.returncode, twice.stderr) == (2, "xenblk: domain 3 has a disk xvdc already\n")
    missing = xenblk("attach", *where, "--domid", "3", "--disk", "/nonexistent.img")
    assert (missing.returncode, missing.stderr) == (1, "xenblk: there is no disk image /nonexistent.img\n")
    assert world.error_of(3) == ""
    (listed,) = json.loads(xenblk("list", *where, "--json").stdout)["disks"]
    assert listed == {
        "domid": 3,
        "vdev": "xvdc",
        "handle": 51744,
        "backend_domid": 0,
        "mode": "r",
        "frontend": "Initialising",
        "backend": "InitWait",
        "disk": str(image),
    }
    refused = xenblk("copy", str(image), "vbd:xvdc", *where, "--domid", "3")
    assert (refused.returncode, refused.stderr) == (
        1,
        "xenblk: the virtual disk is read-only: nothing can be copied into it\n",
    )
    writing = xenblk("bench", *where, "--domid", "3", "--vdev", "xvdc", "--rw", "write")
    assert writing.returncode == 1
    assert "disk xvdc is read-only" in writing.stderr
    assert xenblk("bench", *where, "--domid", "3", "--vdev", "xvdc", "--rw", "read", "--io-size", "64K").returncode == 0
    assert xenblk("detach", *where, "--domid", "3", "--vdev", "xvdc").returncode == 0
    assert json.loads(xenblk("list", *where, "--json").stdout) == {"disks": []}


def test_bench_and_copy_as_a_guest_of_32_bits(world: Any, tmp_path: Path) -> None:
    world.backend()
    domid = world.attach("memory:1M")
    which = ["--run-dir", str(world.run_dir), "--domid", str(domid), "--protocol", "x86_32-abi"]
    node = f"{world.vbd(domid).frontend_path}/protocol"
    for command in (["bench", "--rw", "randrw", "--io-size", "1M"], ["copy", "vbd:xvda", str(tmp_path / "out.img")]):
        done = xenblk(*command, *which)
        assert done.returncode == 0, done.stderr
        assert world.store.read(node) == "x86_32-abi"
        world.store.rm(node)


def test_a_run_directory_in_use(world: Any) -> None:
    done = xenblk("host", "--run-dir", str(world.run_dir))
    assert done.returncode == 1
    assert done.stderr == (
        f"xenblk: the run directory {world.run_dir} is in use by process {world.host_pid}: stop it or choose another\n"
    )
    assert world.store.exists("/local")


def test_a_domain_that_runs_already(world: Any) -> None:
    world.backend()
    domid = world.attach()
    disk = world.disk(domid)
    done = xenblk("bench", "--run-dir", str(world.run_dir), "--domid", str(domid))
    assert (done.returncode, done.stderr) == (
        1,
        f"xenblk: domain {domid} is running already: one process at a time is its kernel\n",
    )
    disk.pwrite(bytes(512), 0)


def test_a_disk_of_somebody_elses_backend(world: Any) -> None:
    world.control.call("create", domid=5)
    back = "/local/domain/0/backend/qdisk/5/51712"
    nodes = ["--backend-node", "hotplug-status=connected", "--backend-node", "type=phy"]
    which = ["--run-dir", str(world.run_dir), "--domid", "5", "--backend-type", "qdisk", "--disk", "/none"]
    assert xenblk("attach", *which, *nodes).returncode == 0
    assert [world.store.read(f"{back}/{key}") for key in ("hotplug-status", "type", "state")] == [
        "connected",
        "phy",
        "1",
    ]
    # It has closed, and does not look at its own state any more.
    world.store.write(f"{back}/state", "6")
    detach(world.store, 5, 51712, timeout_s=float("inf"))
    assert not world.store.exists(back)
    unnamed = xenblk("attach", *which, "--backend-node", "type")
    assert unnamed.returncode == 2
    assert "a node is written KEY=VALUE, not 'type'" in unnamed.stderr
    elsewhere = xenblk("attach", *which, "--backend-node", "a/b=c")
    assert (elsewhere.returncode, "not 'a/b'" in elsewhere.stderr) == (2, True)


def test_attach_without_a_backend_leaves_nothing(world: Any) -> None:
    world.control.call("create", domid=5)
    with pytest.raises(HostError, match="no backend took the disk"):
        attach(world.store, 5, 51712, "memory:1M", timeout_s=0.1)
    assert not world.store.exists("/local/domain/5/device/vbd/51712")
    assert not world.store.exists("/local/domain/0/backend/vbd/5")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path that leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="xb") as path:
        yield Path(path)


@pytest.mark.parametrize("seed", range(6))
def test_an_interrupt_at_any_moment_leaves_nothing_behind(short_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    mark = f"{os.getpid()}-{seed}"
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL][seed % 3]
    process = subprocess.Popen(
        [sys.executable, "-m", "xenblk", "compare", "--io-size", "64M"],
        env={**os.environ, MARK: mark, "TMPDIR": str(short_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.2 + rng.random() * 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if process.returncode != -number:  # it may end before it could prepare for the signal
        assert process.returncode == 128 + number, said
        assert "Traceback" not in said
    deadline_s = time.monotonic() + 20
    while (left := processes_marked(mark)) or list(short_path.iterdir()):
        assert time.monotonic() < deadline_s, f"seed {seed}: {left} {list(short_path.iterdir())}"
        time.sleep(0.05)
