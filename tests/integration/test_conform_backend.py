"""Our backend keeps to blkif: every conformance case passes, or is about something that its nodes do not offer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenblk.engines import ENGINES
from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.conform.backend.run import run_backend_cases, serving
from xenblk.harness.conform.case import Verdict
from xenblk.harness.conform.emulated import EmulatedXen

CASES = {case.id: case for case in BACKEND.select()}


@pytest.fixture(scope="module", params=ENGINES)
def run_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A Xen that our backend serves, one per engine."""
    with serving(request.param) as where:
        yield where


@pytest.mark.parametrize("case_id", CASES)
def test_case(run_dir: Path, case_id: str) -> None:
    (outcome,) = run_backend_cases(EmulatedXen(run_dir), [CASES[case_id]])
    assert outcome.verdict is not Verdict.FAIL, f"{outcome.case.title}: {outcome.detail}"


def test_there_are_enough_cases_and_each_cites_its_source() -> None:
    assert len(CASES) >= 100
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
