"""The README keeps its word: its commands are run, and print what it shows, but for figures that differ by nature."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
STAYS = ("xenblk host", "xenblk backend", "xenblk xenstored")


def blocks() -> list[tuple[str, str]]:
    """Language and text of each fenced block, in order."""
    found = [block.partition("\n") for block in README.read_text().split("```")[1::2]]
    return [(language, text) for language, _, text in found]


def examples() -> list[tuple[str, str]]:
    """Each example in Python with the block behind it: what it prints."""
    following = itertools.pairwise(blocks())
    return [(source, shown) for (language, source), (_, shown) in following if language == "python"]


def commands() -> list[tuple[str, str]]:
    """Each command of the console blocks with the output that is shown for it."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(text for language, text in blocks() if language == "console").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def shape(text: str) -> list[str]:
    """Lines without figures, paths, rules and spacing: what stays the same from run to run."""
    text = re.sub(r"(/[\w.-]*)+(\\\.\.\.)?", "PATH", text)  # xenstore-ls cuts what is too long for a line
    lines = (re.sub(r"[\s─]+", " ", re.sub(r"-?[\d.,]*\d", "#", line)).strip() for line in text.splitlines())
    return [line.replace("null", "#") for line in lines if line]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which `xenblk` is this one, in an empty folder."""
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PWD": str(tmp_path)}
    environment.pop("XENBLK_RUN_DIR", None)
    return environment  # type: ignore[return-value]


def start(command: str, cwd: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A command that stays; returns when it is ready, with what it said."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def run(command: str, cwd: Path, environment: dict[str, str]) -> str:
    """What a command prints; fails if the command does."""
    if command.startswith("export "):
        name, _, value = command.removeprefix("export ").partition("=")
        environment[name] = value
        return ""
    done = subprocess.run(["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_commands_print_what_is_shown(shell: dict[str, str], tmp_path: Path) -> None:
    without_xenstore_utils = shutil.which("xenstore-ls") is None
    running: list[subprocess.Popen[str]] = []
    try:
        for command, shown in commands():
            if without_xenstore_utils and re.match(r"(\w+=\w+ )?xenstore-|grep .* trace.log", command):
                continue
            if command.startswith(STAYS):
                process, printed = start(command, tmp_path, shell)
                running.append(process)
            else:
                printed = run(command, tmp_path, shell)
            assert shape(printed) == shape(shown), command
            if command.startswith("xenblk copy"):
                assert printed.rstrip() == shown, command
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert not (tmp_path / "run").exists()
    if without_xenstore_utils:
        pytest.skip("all but xenstore-ls and its like was run: they are in Debian's package xenstore-utils")


@pytest.mark.parametrize(("source", "shown"), examples())
def test_the_library_examples_print_what_is_shown(tmp_path: Path, source: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (shown, "")


@pytest.mark.checkout
def test_the_picture_and_the_table_name_what_exists() -> None:
    for name in re.findall(r"\]\(([\w/.]+)\)", README.read_text()):
        assert (README.parent / name).exists(), name
