"""One boot of the machine for all tests of a process."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.guests import Guest, create
from lab.machine import Machine
from lab.tree import archive_tree

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "build/xen-lab"
PROGRAMS = Path(__file__).parent / "programs"
EVIDENCE = "evidence"
LONGEST = ("test_restarts.py", "test_modes.py")
Say = Callable[[str], None]


def pytest_report_header() -> str:
    """Where to look when something goes wrong."""
    return f"consoles: {(LAB / 'log').relative_to(ROOT)}/tests-*"


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """Takes a line of evidence, for the terminal (below) and for a report in XML."""
    return lambda line: record_property(EVIDENCE, line)


class Evidence:
    """Shows what tests have said, whichever process they ran in."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal = config.pluginmanager.getplugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After a test, whether it passed or not."""
        if report.when == "call":
            for name, line in report.user_properties:
                if name == EVIDENCE:
                    self._terminal.write_line(f"    {line}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first: as the last one it would run while the other machines have nothing."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """In the process that has a terminal."""
    if config.pluginmanager.has_plugin("terminalreporter") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Evidence(config))


@pytest.fixture(scope="session")
def dom0(worker_id: str) -> Iterator[Machine]:
    """The machine, with this tree's xenblk in domain 0."""
    name = f"tests-{worker_id}"
    archive = LAB / f"{name}.cpio"
    archive_tree(ROOT, LAB, archive)
    with Machine(LAB, [archive], name) as machine:
        yield machine


@pytest.fixture(scope="session")
def program(dom0: Machine) -> Callable[..., str]:
    """Runs a program of programs/ with these arguments in domain 0: what it says. LabError if it fails."""

    def run(name: str, *arguments: str) -> str:
        dom0.put(f"/tmp/{name}", (PROGRAMS / name).read_bytes())
        return dom0.check(shlex.join(["python3", f"/tmp/{name}", *arguments]))

    return run


@pytest.fixture
def guest(dom0: Machine) -> Iterator[Callable[..., Guest]]:
    """`lab.guests.create` on the machine; its guests are gone after the test."""
    guests: list[Guest] = []

    def make(name: str, job: str, **settings: object) -> Guest:
        guests.append(create(dom0, name, job, **settings))  # type: ignore[arg-type]
        return guests[-1]

    yield make
    for each in guests:
        each.destroy()
