"""No wake-up is lost: in every state of rings and event channels (README.md), and every mistake in them is found."""

import os
import subprocess
from pathlib import Path

import pytest
from model.mutants import BOTH, MUTANTS, Mutant

pytestmark = pytest.mark.checkout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def _compile(*arguments: str | Path) -> None:
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unused", "-Wno-unused-parameter")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", *warnings, *arguments], check=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The parts of the model that no mutant changes, compiled."""
    folder = tmp_path_factory.mktemp("machine")
    objects = [folder / f"{name}.o" for name in ("search", "memory", "steps")]
    for made in objects:
        _compile("-O2", "-c", HERE / f"{made.stem}.c", "-o", made)
    return objects


def _model(machine: list[Path], folder: Path) -> Path:
    """The model of the sources in `folder`, and of the project's where that has none."""
    _compile("-O1", f"-I{folder}", f"-I{ROOT}", HERE / "operations.c", *machine, "-o", folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def model(machine: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the project's own sources."""
    return _model(machine, tmp_path_factory.mktemp("model"))


def _failure(model: Path, machine: str, nr_ents: int) -> str | None:
    """The shortest way to what is wrong, or None."""
    run = subprocess.run([model, machine, str(nr_ents)], capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run
    assert ("VIOLATION: " if run.returncode else "no wake-up is lost") in run.stdout
    return run.stdout if run.returncode else None


@pytest.mark.parametrize(("machine_name", "nr_ents"), [("tso", 1), ("weak", 1), ("tso", 2), ("weak", 2), ("tso", 4)])
def test_no_wakeup_is_lost(model: Path, machine_name: str, nr_ents: int) -> None:
    failure = _failure(model, machine_name, nr_ents)
    assert failure is None, failure


def _mutate(mutant: Mutant, folder: Path) -> None:
    text = (ROOT / mutant.file).read_text()
    for old, new in mutant.replacements:
        assert text.count(old) == 1, f"{mutant.file} has changed: {mutant.name} looks for {old!r}"
        text = text.replace(old, new)
    (folder / mutant.file).parent.mkdir(parents=True)
    (folder / mutant.file).write_text(text)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mistake_is_found(mutant: Mutant, machine: list[Path], tmp_path: Path) -> None:
    _mutate(mutant, tmp_path)
    model = _model(machine, tmp_path)
    found = [name for name in BOTH if any(_failure(model, name, nr_ents) for nr_ents in (1, 2))]
    assert found == list(mutant.fails_on), mutant.why
    assert (mutant.fails_on == BOTH) == (not mutant.why)


def test_a_trace_says_who_did_what(machine: list[Path], tmp_path: Path) -> None:
    _mutate(next(mutant for mutant in MUTANTS if mutant.name == "no R"), tmp_path)
    trace = _failure(_model(machine, tmp_path), "tso", 1)
    assert trace is not None
    lines = trace.splitlines()
    assert lines[-1] == "VIOLATION: both sides sleep while a request has no response: a wake-up was lost"
    assert "front  put: stores slot 0: request 0; -> 1" in lines
    assert all(line.startswith(("front  ", "back   ")) for line in lines[:-1])
    assert any("final_check: loads " in line and " stores " in line for line in lines)
