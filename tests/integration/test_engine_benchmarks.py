"""The benchmarks of the engines run to their end and say what they promise to. Speeds are no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.checkout

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "engine"
DEADLINE_S = 120.0
OURS = ["persistent", "map/unmap", "bounded", "grant copy", "persistent, Python engine", "persistent, file"]
LIMITS = ["limit: 1 copy, plain", "limit: 2 copies, plain", "limit: 2 copies, streaming"]


def _run(script: str, *options: str) -> str:
    command = [sys.executable, str(FOLDER / script), "--rounds", "1", "--seconds", "0.02", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """One work in both places, and one that has no bare mappings beside it."""
    works = ("--work", "randread-4k-32", "--work", "randwrite-4k-1")
    result: dict[str, Any] = json.loads(_run("compare.py", "--disk-mib", "8", "--json", *works))
    return result


def test_every_contender_is_measured(found: dict[str, Any]) -> None:
    assert found["not_measured"] == []
    names = {row["name"] for row in found["rows"] if row["work"] == "randread-4k-32"}
    alone = {"no second process, io_uring", "bare map, touch, unmap"}
    assert names == {*LIMITS, *(f"xenblk, {mode}" for mode in OURS), *alone}
    assert "no second process, psync" in {row["name"] for row in found["rows"] if row["work"] == "randwrite-4k-1"}


def test_figures_are_in_order_and_held_against_the_better_limit(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        for figure in ("iops", "p50_us", "p99_us", "cpu_s_per_million"):
            assert row[figure]["min"] <= row[figure]["median"] <= row[figure]["max"]
        assert row["n"] + row["left_out"] == 1
        section = [other for other in found["rows"] if (other["work"], other["place"]) == (row["work"], row["place"])]
        limits = [other["iops"]["median"] for other in section if other["name"] in LIMITS[1:]]
        if row["to_limit"] is not None:
            assert row["to_limit"] == pytest.approx(row["iops"]["median"] / max(limits))


def test_the_table_has_a_section_for_each_work_and_place(tmp_path: Path) -> None:
    picture = tmp_path / "limits.png"
    options = ["--disk-mib", "8", "--work", "read-64k-32", "--only", "limit: 2", "--place", "one"]
    table = _run("compare.py", *options, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "read-64k-32, one CPU" in table
    assert "limit: 2 copies, streaming" in table
    assert "xenblk" not in table


def test_regression_what_a_plot_needs_is_looked_for_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    command = [sys.executable, str(FOLDER / "compare.py"), "--rounds", "100000", "--plot", str(tmp_path / "p.png")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a plot needs matplotlib" in done.stderr


def test_threads() -> None:
    rows = json.loads(_run("threads.py", "--disk-mib", "4", "--json"))["rows"]
    assert [(row["mode"], row["threads"]) for row in rows] == [
        (mode, threads) for mode in ("persistent", "map/unmap") for threads in (1, 2)
    ]
    for row in rows:
        assert row["iops"]["median"] > 0
    assert [row["to_map"] for row in rows if row["mode"] == "map/unmap"] == [1.0, 1.0]
