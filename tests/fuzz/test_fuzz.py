"""The fuzzers, for a fixed number of cases; and whether they would find a fault, and show it as they say."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from xenblk.xenstore import session, tree, watch, wire

FOLDER = Path(__file__).resolve().parent
SEED = 20260131


def _program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, FOLDER / name, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "nr_cases"), [("fuzz_wire.py", 1000), ("fuzz_session.py", 300), ("fuzz_engines.py", 40)]
)
def test_a_number_of_cases(name: str, nr_cases: int) -> None:
    done = _program(name, "--seed", str(SEED), "--cases", str(nr_cases))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert f"{nr_cases} cases, none failed" in done.stdout


def test_a_case_as_it_was_printed(tmp_path: Path) -> None:
    case = tmp_path / "case"
    case.write_text(json.dumps([b"\2\0\0\0".hex(), bytes(12).hex()]))
    assert _program("fuzz_wire.py", "--replay", str(case)).returncode == 0
    case.write_text(json.dumps(["no bytes"]))
    assert "ValueError" in _program("fuzz_wire.py", "--replay", str(case)).stdout


@pytest.fixture
def fuzzer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """One of the programs as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def _finds(fuzzer: Callable[[str], ModuleType], name: str, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """A fault that was planted is found, and the case that is printed has it."""
    module, fuzzing = fuzzer(name), fuzzer("fuzzing")
    assert fuzzing.main(module.make, module.check, ["--seed", str(SEED), "--cases", "300"]) == 1
    printed = capsys.readouterr().out
    assert all(word in printed for word in words), printed
    case = json.loads(printed.splitlines()[-1])
    assert fuzzing.failure_of(module.check, case) is not None


def test_a_length_that_is_not_checked_is_found(
    fuzzer: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wire, "PAYLOAD_BYTES_MAX", 4097)
    _finds(fuzzer, "fuzz_wire", capsys, "AssertionError")


def test_a_request_without_an_answer_is_found(
    fuzzer: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = session.Session._serve
    skipped = (wire.XsMsgType.DIRECTORY_PART, wire.XsMsgType.RM)
    monkeypatch.setattr(
        session.Session, "_serve", lambda self, packet: None if packet.type in skipped else serve(self, packet)
    )
    _finds(fuzzer, "fuzz_session", capsys, "AssertionError")


def test_watches_that_stay_are_found(
    fuzzer: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch.WatchTable, "remove_all", lambda _self, _listener: None)
    _finds(fuzzer, "fuzz_session", capsys, "AssertionError")


def test_nodes_that_count_for_nobody_are_found(
    fuzzer: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drop = tree.Tree.drop
    monkeypatch.setattr(
        tree.Tree, "drop", lambda self, path: self._nodes.pop(path) if path == "/a/b" else drop(self, path)
    )
    _finds(fuzzer, "fuzz_session", capsys, "AssertionError")


def test_an_exception_that_no_client_should_cause_is_found(
    fuzzer: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xenblk.xenstore.requests.parse_number", int)
    _finds(fuzzer, "fuzz_session", capsys, "ValueError")
