"""docs/testing.md keeps its word: its tests are run beside the examples, and its commands print what it shows."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"^`([\w.]+)`\n\n```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def _shape(line: str) -> str:
    """A line without what differs from run to run."""
    return re.sub(r" in [\d.]+s", " in # s", line.rstrip())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and the files of the document beside them."""
    folder = tmp_path_factory.mktemp("testing")
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, folder)
    for name, source in FILES.items():
        (folder / name).write_text(source)
    return folder


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    environment["PYTEST_ADDOPTS"] = "-p no:cacheprovider -W error"
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands_print_what_is_shown(folder: Path, command: str, shown: str) -> None:
    """Lines stand in this order; `...` stands for any."""
    done = _run(command, folder)
    printed = [_shape(line) for line in done.stdout.splitlines()]
    wanted = [_shape(line) for line in shown.splitlines()]
    if "..." not in wanted:
        assert printed == wanted, done.stdout + done.stderr
    at = 0
    for line in wanted:
        if line != "...":
            assert line in printed[at:], done.stdout + done.stderr
            at = printed.index(line, at)


def test_the_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([\w/.]+)(?:#[\w-]+)?\)", TEXT)
    assert targets
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target
