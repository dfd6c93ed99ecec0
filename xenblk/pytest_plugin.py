"""The pytest plugin: fixtures for tests of block drivers; docs/testing.md shows how to use them.

It is loaded in every run of pytest where xenblk is installed, so all else is imported when a fixture is first used.
"""

import importlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

import xenblk

if TYPE_CHECKING:
    from xenblk.blkfront import Blkfront, VirtualDisk
    from xenblk.processes import Program
    from xenblk.testing import AttachedVbd, HostKeeper, XenHost

_HOST: Final = pytest.StashKey["XenHost"]()

_MARKERS: Final = (
    "xenblk_backend(*options): more options of `xenblk backend` for the fixture xenblk_backend",
    "xenblk_vbd(disk, mode, vdev, ...): what the fixture xenblk_vbd attaches; see XenHost.attach",
    "xenblk_frontend(**options): options of Blkfront for the fixtures xenblk_frontend and xenblk_disk",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the command line."""
    group = parser.getgroup("xenblk", "block drivers under test (xenblk)")
    group.addoption(
        "--xenblk-engine",
        choices=("native", "python"),
        default="native",
        help="engine of xenblk's own frontends and backends (default: native)",
    )
    group.addoption(
        "--xenblk-backend",
        metavar="COMMAND",
        help="shell command that the fixture xenblk_backend runs in place of xenblk's own backend",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Markers."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)


def _testing() -> Any:
    return importlib.import_module("xenblk.testing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what both ends looked like when a test failed, while they are still there."""
    report = yield
    host = item.stash.get(_HOST, None)
    if host is not None and report.failed:
        report.sections.append(("xenblk", _testing().describe(host) or "no disk, no program"))
    return report


def _markers(request: pytest.FixtureRequest, name: str) -> list[pytest.Mark]:
    """All markers of that name, the nearest to the test last."""
    return list(request.node.iter_markers(name))[::-1]


def _options(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """The options of all markers; the nearest to the test wins."""
    return {key: value for marker in _markers(request, name) for key, value in marker.kwargs.items()}


@pytest.fixture(scope="session")
def _xenblk_keeper() -> Iterator["HostKeeper"]:
    """The host process that tests use one after the other."""
    with _testing().HostKeeper() as keeper:
        yield keeper


@pytest.fixture
def xenblk_host(request: pytest.FixtureRequest, _xenblk_keeper: "HostKeeper") -> Iterator["XenHost"]:
    """An emulated Xen with nothing in it; what a test starts in it ends with the test."""
    engine = request.config.getoption("--xenblk-engine")
    with _xenblk_keeper.lend() as process, _testing().XenHost(process, engine) as host:
        request.node.stash[_HOST] = host
        try:
            yield host
        finally:
            del request.node.stash[_HOST]


@pytest.fixture
def xenblk_backend(request: pytest.FixtureRequest, xenblk_host: "XenHost") -> "Program":
    """A running backend: xenblk's, unless --xenblk-backend names another and the test does not ask for ours.

    Override it to test a backend of your own: it need only return after the backend was started.
    """
    options = [option for marker in _markers(request, "xenblk_backend") for option in marker.args]
    command = request.config.getoption("--xenblk-backend")
    if command and not options:
        return xenblk_host.run(command)
    return xenblk_host.backend(*options)


@pytest.fixture
def xenblk_vbd(request: pytest.FixtureRequest, xenblk_host: "XenHost", xenblk_backend: object) -> "AttachedVbd":
    """A disk that the backend has opened, in a domain of its own; nobody has connected to it."""
    args = [marker.args for marker in _markers(request, "xenblk_vbd") if marker.args]
    return xenblk_host.attach(*(args or [()])[-1], **_options(request, "xenblk_vbd"))


@pytest.fixture
def xenblk_frontend(request: pytest.FixtureRequest, xenblk_host: "XenHost", xenblk_vbd: "AttachedVbd") -> "Blkfront":
    """Our frontend, in this process, connected to the backend."""
    return xenblk_host.frontend(xenblk_vbd, **_options(request, "xenblk_frontend"))


@pytest.fixture
def xenblk_disk(xenblk_frontend: "Blkfront") -> "VirtualDisk":
    """The disk of `xenblk_frontend`, to be read and written."""
    return xenblk.VirtualDisk(xenblk_frontend)
