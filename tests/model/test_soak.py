"""The soak program: it comes to its end, and says so where a wake-up is lost. `make soak` is the long run."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EVTCHN = ROOT / "xenblk/emulated/evtchn.c"
REQUESTS = 20_000


def _build(folder: Path, sring: Path) -> Path:
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}"]
    subprocess.run([*command, HERE / "soak.c", sring, EVTCHN, "-o", folder / "soak"], check=True)
    return folder / "soak"


def _run(program: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)


def test_both_sides_are_always_woken(tmp_path: Path) -> None:
    run = _run(_build(tmp_path, ROOT / "ring/sring.c"), REQUESTS, 1)
    assert run.returncode == 0, run
    assert run.stdout.startswith(f"req_prod {REQUESTS}, ")
    assert f"front: {REQUESTS} requests; " in run.stdout
    assert f"back: {REQUESTS} requests; " in run.stdout


def test_a_hang_is_seen_and_described(tmp_path: Path) -> None:
    text = (ROOT / "ring/sring.c").read_text()
    assert text.count("event, cons + 1,") == 1
    broken = tmp_path / "sring.c"
    broken.write_text(text.replace("event, cons + 1,", "event, cons,"))
    run = _run(_build(tmp_path, broken), REQUESTS, 1, 1)
    assert run.returncode == 1, run
    assert run.stdout.startswith("HANG: no request was finished for 1 s\n")
    assert run.stdout.count("; asleep, pending 0\n") == 2
