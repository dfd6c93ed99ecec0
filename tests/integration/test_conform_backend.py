"""Our backend keeps to blkif on every kind of disk: each conformance case passes, or is about what is not offered."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xenblk.engines import ENGINES
from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.conform.backend.run import DISK, run_backend_cases, serving
from xenblk.harness.conform.case import Outcome, Verdict
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.doubles.real_deviations import OURS

CASES = {case.id: case for case in BACKEND.select()}
EACH_ENGINE = pytest.mark.parametrize("engine", ENGINES)
QUEUES = ("--max-queues", "4")  # however few CPUs there are

# What is not offered: on a disk of memory; in a file, whose blocks are nobody's to erase; and with larger sectors,
# where what moves smaller ones has to fail.
IN_MEMORY = set(OURS)
IN_A_FILE = IN_MEMORY - {"B-DISCARD-005"} | {"B-DISCARD-006"}
LARGE_SECTORS = IN_MEMORY - {"B-WRITE-008"} | {
    *("B-READ-001", "B-READ-003", "B-READ-005", "B-READ-006", "B-READ-007"),
    *("B-WRITE-001", "B-WRITE-002", "B-WRITE-004", "B-WRITE-005"),
    *("B-DISCARD-001", "B-DISCARD-002", "B-FLUSH-006", "B-INDIRECT-005"),
}
# Of all the cases those that a kind of disk can make a difference to.
MOVING = [f"B-{topic}-*" for topic in ("READ", "WRITE", "FLUSH", "BARRIER", "DISCARD", "INDIRECT")]
MOVING_WHOLE_SECTORS = [*MOVING, *(f"B-{topic}-*" for topic in ("ABI", "CHECK", "PERSIST", "QUEUE"))]


def surprise(outcome: Outcome[Any], not_offered: Collection[str]) -> str:
    """How a case ended, if not as it is to."""
    expected = Verdict.NOT_OFFERED if outcome.case.id in not_offered else Verdict.PASS
    return "" if outcome.verdict is expected else f"{outcome.verdict.value}, not {expected.value}: {outcome.detail}"


def surprises(
    xen: EmulatedXen, patterns: Iterable[str], not_offered: Collection[str], disk: str = DISK
) -> dict[str, str]:
    """Which of the cases did not end as they are to, and how they did."""
    outcomes = run_backend_cases(xen, BACKEND.select(patterns), disk)
    return {outcome.case.id: text for outcome in outcomes if (text := surprise(outcome, not_offered))}


@pytest.fixture(scope="module", params=ENGINES)
def run_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A Xen that our backend serves, one per engine."""
    with serving(request.param, *QUEUES) as where:
        yield where


@pytest.mark.parametrize("case_id", CASES)
def test_case(run_dir: Path, case_id: str) -> None:
    (outcome,) = run_backend_cases(EmulatedXen(run_dir), [CASES[case_id]])
    assert not surprise(outcome, IN_MEMORY), outcome.case.title


@EACH_ENGINE
@pytest.mark.parametrize("how", ["mapped", "by system calls", "direct"])
def test_a_disk_in_a_file(engine: str, how: str) -> None:
    folder = "/dev/shm" if how == "mapped" else None
    options = ["--direct"] if how == "direct" else []
    with tempfile.TemporaryDirectory(dir=folder) as where, serving(engine, *QUEUES, *options) as run_dir:
        image = Path(where) / "disk"
        image.touch()
        os.truncate(image, 1 << 20)
        assert not surprises(EmulatedXen(run_dir), MOVING, IN_A_FILE, str(image))


@EACH_ENGINE
def test_a_disk_with_sectors_of_4096_bytes(engine: str) -> None:
    with serving(engine, *QUEUES) as run_dir:
        xen = EmulatedXen(run_dir, nodes={"sector-size": "4096"})
        assert not surprises(xen, MOVING_WHOLE_SECTORS, LARGE_SECTORS)


@EACH_ENGINE
def test_requests_with_two_indirect_pages(engine: str) -> None:
    with serving(engine, "--max-indirect-segments", "1024") as run_dir:
        assert not surprises(EmulatedXen(run_dir), ["B-INDIRECT-*"], IN_MEMORY - {"B-INDIRECT-020"})


def test_there_are_enough_cases_and_each_cites_its_source() -> None:
    assert len(CASES) >= 259
    assert all(case.title and case.source for case in CASES.values())


def _conform(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xenblk", "conform", *args], capture_output=True, text=True, check=False, timeout=60
    )


def test_command_json() -> None:
    done = _conform("--backend", "python", "--case", "B-READ-*", "--case", "B-QUEUE-001", "--json")
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["cases"]
    assert [case["id"] for case in cases][:2] == ["B-READ-001", "B-READ-002"]
    assert {tuple(case) for case in cases} == {("id", "title", "source", "verdict", "detail")}
    assert {case["verdict"] for case in cases if case["id"].startswith("B-READ")} == {"pass"}


def test_command_gives_the_backend_a_node_more() -> None:
    done = _conform("--backend", "python", "--backend-node", "sector-size=4096", "--case", "B-WRITE-008", "--json")
    assert done.returncode == 0, done.stderr
    assert [case["verdict"] for case in json.loads(done.stdout)["cases"]] == ["pass"]


def test_command_table_and_failure(run_dir: Path) -> None:
    """A disk that is not there fails a case, and the status says so."""
    done = _conform("--run-dir", str(run_dir), "--disk", "/nonexistent", "--case", "B-HAND-001")
    assert done.returncode == 1, done.stdout
    assert "1 fail" in done.stdout
    assert "it is Closing" in done.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--backend", "elephant"], "a backend is one of native, python"),
        (["--case", "B-ELEPHANT-*", "--backend", "native"], "no case is called 'B-ELEPHANT-*'"),
        ([], "one of --backend, --frontend and --run-dir"),
    ],
)
def test_command_misuse(args: list[str], sentence: str) -> None:
    done = _conform(*args)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_command_list() -> None:
    done = _conform("--list", "--case", "B-XSA*")
    assert done.returncode == 0
    assert "XSA-216" in done.stdout
