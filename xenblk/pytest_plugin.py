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
    from xenblk.harness.doubles.frontend_thread import FrontendThread
    from xenblk.processes import Program
    from xenblk.testing import AttachedVbd, HostKeeper, XenHost
    from xenblk.testing.doubles import FrontendDisk

_HOST: Final = pytest.StashKey["XenHost"]()

_MARKERS: Final = (
    "xenblk_backend(*options, double=None): for the fixture xenblk_backend, more options of `xenblk backend`,"
    " or the name of a double in its place",
    "xenblk_vbd(disk, mode, vdev, ...): what the fixture xenblk_vbd attaches; see XenHost.attach",
    "xenblk_frontend(double=None, **options): options of Blkfront for the fixtures xenblk_frontend and xenblk_disk,"
    " or the name of a double and options of its",
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
        help="shell command that the fixture xenblk_backend runs in place of xenblk's own backend, or a double's name: "
        "linux, qemu, tapdisk, freebsd",
    )
    group.addoption(
        "--xenblk-frontend",
        metavar="NAME",
        help="double that the fixtures xenblk_frontend and xenblk_disk have in place of xenblk's own frontend: "
        "linux, edk2, mini-os, unikraft, netbsd, xenvbd",
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
    """A running backend: xenblk's, unless --xenblk-backend names another and the test does not say which it wants.

    Override it to test a backend of your own: it need only return after the backend was started.
    """
    options = [option for marker in _markers(request, "xenblk_backend") for option in marker.args]
    double = _options(request, "xenblk_backend").get("double")
    command = request.config.getoption("--xenblk-backend")
    if command and not options and double is None:
        if command not in importlib.import_module("xenblk.harness.doubles").BACKENDS:
            return xenblk_host.run(command)
        double = command
    if double is None:
        return xenblk_host.backend(*options)
    if options:
        raise pytest.UsageError(f"the double of {double} has no options of `xenblk backend`: {' '.join(options)}")
    return xenblk_host.backend_double(double)


@pytest.fixture
def xenblk_vbd(request: pytest.FixtureRequest, xenblk_host: "XenHost", xenblk_backend: object) -> "AttachedVbd":
    """A disk that the backend has opened, in a domain of its own; nobody has connected to it."""
    args = [marker.args for marker in _markers(request, "xenblk_vbd") if marker.args]
    return xenblk_host.attach(*(args or [()])[-1], **_options(request, "xenblk_vbd"))


@pytest.fixture
def xenblk_frontend(
    request: pytest.FixtureRequest, xenblk_host: "XenHost", xenblk_vbd: "AttachedVbd"
) -> "Blkfront | FrontendThread":
    """Our frontend, in this process, connected to the backend; a double, if --xenblk-frontend or the test says so."""
    options = _options(request, "xenblk_frontend")
    double = options.pop("double", None)
    if not _markers(request, "xenblk_frontend"):
        double = request.config.getoption("--xenblk-frontend")
    if double is None:
        return xenblk_host.frontend(xenblk_vbd, **options)
    return xenblk_host.frontend_double(xenblk_vbd, double, **options)


@pytest.fixture
def xenblk_disk(xenblk_frontend: "Blkfront | FrontendThread") -> "VirtualDisk | FrontendDisk":
    """The disk of `xenblk_frontend`, to be read and written."""
    if isinstance(xenblk_frontend, xenblk.Blkfront):
        return xenblk.VirtualDisk(xenblk_frontend)
    disk: FrontendDisk = importlib.import_module("xenblk.testing.doubles").FrontendDisk(xenblk_frontend)
    return disk
