"""The pytest plugin as its users run it: pytest in a process of its own, on tests that are written here."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of all tests keep what they compiled."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def temporary(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bytecode: Path) -> Iterator[Path]:
    """The temporary folder of pytest and all that it starts, which are told by it; nothing may be left of either."""
    folder = Path(tempfile.mkdtemp(prefix="xb-", dir="/tmp"))  # short, for sockets have short names
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider -W error --strict-markers --strict-config")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    yield folder
    left = [path.name for path in folder.iterdir()]
    processes = _processes(folder)
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)
    assert (left, processes) == ([], [])


def _processes(folder: Path) -> list[int]:
    """Processes whose temporary folder this is."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue  # another user's, or gone
    return found


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.01)


USES = """
import pytest

def test_defaults(request, xenblk_disk, xenblk_frontend):
    assert xenblk_disk.frontend is xenblk_frontend
    assert xenblk_frontend.engine == request.config.getoption("--xenblk-engine")
    xenblk_disk.pwrite(b"a" * 4096, 8192)
    xenblk_disk.flush()
    assert xenblk_disk.pread(4096, 8192) == b"a" * 4096
    assert xenblk_disk.size == 16 << 20

@pytest.mark.xenblk_backend("--grant-copy")
@pytest.mark.xenblk_vbd("memory:64K", vdev="xvdc")
class TestMarkers:
    @pytest.mark.xenblk_vbd(mode="r")
    @pytest.mark.xenblk_frontend(engine="python", feature_persistent=False)
    def test_add_up(self, xenblk_disk, xenblk_vbd):
        assert (xenblk_disk.size, xenblk_disk.read_only, xenblk_vbd.vdev) == (65536, True, "xvdc")
        assert xenblk_disk.frontend.engine == "python"
        xenblk_disk.pread(4096, 0)
        counters = xenblk_vbd.counters()
        assert (counters["copy_pages"], counters["map_pages"]) == (1, 0)

    @pytest.mark.xenblk_backend("--engine", "python")
    @pytest.mark.xenblk_vbd(4096)
    def test_nearest_wins(self, xenblk_disk, xenblk_vbd):
        assert (xenblk_disk.size, xenblk_vbd.vdev) == (4096, "xvdc")
        xenblk_disk.pread(4096, 0)
        assert xenblk_vbd.counters()["copy_pages"] == 1

def test_by_hand(xenblk_host, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(8192))
    backend = xenblk_host.backend("--max-persistent-grants", "1")
    one, two = xenblk_host.attach(image), xenblk_host.attach(8192)
    three = xenblk_host.attach("memory:8K", vdev="xvdb", domid=two.domid)
    assert three.backend_path == f"/local/domain/0/backend/vbd/{two.domid}/51728"
    disks = [xenblk_host.disk(one), xenblk_host.disk(two, engine="python")]
    for disk in disks:
        disk.pwrite(b"b" * 8192, 0)
    assert image.read_bytes() == b"b" * 8192
    assert one.counters()["persistent_overflow"] == 1
    assert one.pins() == two.pins() == 2
    assert backend.running()
    assert xenblk_host.store.read("/local/domain/0/name") == "Domain-0"
"""


@pytest.mark.parametrize("options", [["--xenblk-engine=native"], ["--xenblk-engine=python", "-n2"]], ids=" ".join)
def test_fixtures_and_markers(pytester: pytest.Pytester, temporary: Path, options: list[str]) -> None:
    pytester.makepyfile(USES)
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=4)


DOUBLES = """
import signal
import pytest
from xenblk.errors import XenblkError

def test_both_ends(xenblk_disk, xenblk_vbd, xenblk_backend):
    assert xenblk_backend.name == "double of tapdisk"
    assert xenblk_vbd.store.read(xenblk_vbd.backend_path + "/max-ring-page-order") == "3"
    assert xenblk_disk.frontend.offers_discard is False
    assert xenblk_disk.pwrite(b"d" * 1024, 8192) == 1024
    xenblk_disk.flush()
    xenblk_disk.discard(0, 512)
    assert xenblk_disk.pread(4096, xenblk_disk.size - 512) == bytes(512)
    assert xenblk_disk.pread(1536, 8192) == b"d" * 1024 + bytes(512)
    with pytest.raises(OSError, match="multiples of 512 bytes, not 1 and 0"):
        xenblk_disk.pread(0, 1)
    with pytest.raises(OSError, match="beyond the disk"):
        xenblk_disk.pwrite(bytes(1024), xenblk_disk.size - 512)
    xenblk_disk.close()
    assert xenblk_vbd.frontend_state().label == "Initialising"

@pytest.mark.xenblk_vbd(mode="r")
@pytest.mark.xenblk_backend(double="linux")
@pytest.mark.xenblk_frontend(double="linux", ring_page_order=2)
def test_markers_win(xenblk_disk, xenblk_vbd, xenblk_backend):
    assert (xenblk_backend.name, xenblk_disk.read_only) == ("double of linux", True)
    assert xenblk_vbd.store.read(xenblk_vbd.frontend_path + "/ring-page-order") == "2"
    with pytest.raises(OSError, match="read-only"):
        xenblk_disk.pwrite(bytes(512), 0)
    assert xenblk_disk.pread(512, 0) == bytes(512)

@pytest.mark.xenblk_backend("--grant-copy")
@pytest.mark.xenblk_frontend(engine="python")
def test_marked_ends_are_our_own(xenblk_disk, xenblk_vbd):
    xenblk_disk.pread(512, 0)
    assert xenblk_vbd.counters()["copy_pages"] == xenblk_vbd.counters("front")["rd_req"] + 1

def test_the_end_of_a_double(xenblk_host):
    backend = xenblk_host.backend_double("qemu")
    backend.signal(signal.SIGTERM)
    assert backend.wait(10) == 0

@pytest.mark.xenblk_vbd("memory:64K")
def test_what_cannot_be(xenblk_host, xenblk_vbd):
    with pytest.raises(XenblkError, match="backend is one of linux, qemu, tapdisk, freebsd, not 'edk2'"):
        xenblk_host.backend_double("edk2")
    with pytest.raises(XenblkError, match="frontend is one of linux, .*, not 'qemu'"):
        xenblk_host.frontend_double(xenblk_vbd, "qemu")
    with pytest.raises(XenblkError, match="edk2 has no option nr_queues"):
        xenblk_host.frontend_double(xenblk_vbd, "edk2", nr_queues=2)

@pytest.mark.xenblk_backend("--grant-copy", double="linux")
def test_options_of_another(xenblk_backend):
    pass
"""


def test_doubles(pytester: pytest.Pytester, temporary: Path) -> None:
    pytester.makepyfile(DOUBLES)
    done = pytester.runpytest_subprocess("--xenblk-backend=tapdisk", "--xenblk-frontend=edk2")
    done.assert_outcomes(passed=5, errors=1)
    done.stdout.fnmatch_lines(["*the double of linux has no options of `xenblk backend`: --grant-copy"])


FAILS = """
import pytest

def test_call(xenblk_host, xenblk_disk):
    xenblk_disk.pwrite(bytes(4096), 0)
    shell = xenblk_host.run("echo my output; echo my complaint >&2; exec sleep 1000")
    assert shell.readline(10) == "my output"
    assert False, "on purpose"

def test_setup(xenblk_host):
    shell = xenblk_host.run("echo last words >&2; exit 3")
    with pytest.raises(Exception, match="last words"):
        shell.readline(10)
    xenblk_host.attach(timeout_s=0.1)

@pytest.mark.xenblk_backend("--no-such-option")
def test_our_backend(xenblk_disk):
    pass

def test_crashed_host(xenblk_host, xenblk_disk):
    import os, signal
    os.kill(xenblk_host.pid, signal.SIGKILL)
    while True:
        xenblk_host.store.exists("/local")

def test_the_next_one(xenblk_disk):
    xenblk_disk.pread(512, 0)
"""


def test_what_a_failure_says(pytester: pytest.Pytester, temporary: Path) -> None:
    pytester.makepyfile(FAILS)
    done = pytester.runpytest_subprocess("-rA")
    done.assert_outcomes(passed=1, failed=3, errors=1)
    done.stdout.fnmatch_lines_random(["*HostError: no backend took the disk within 0.1 s*", "*No such option*"])
    printed = re.sub(r" +", " ", done.stdout.str())
    sections = [part.partition("\n___")[0] for part in printed.split(" xenblk ---")[1:]]
    assert len(sections) == 4
    by_setup, by_call, by_attach, by_crash = sections
    assert "No such option '--no-such-option'" in by_setup
    for line in (
        "xvda of domain 1\n",
        " states: frontend Connected, backend Connected\n",
        " pages mapped by others: 2\n",
        " map_pages 1 0\n",
        " feature-persistent = '1'\n",
        "xenblk backend: running\n",
        " xenblk backend: ready; serves the disks of domain 0\n",
        " my complaint",
    ):
        assert line in by_call, by_call
    assert "states: frontend Unknown, backend Unknown" in by_attach
    assert "exit 3: ended with status 3\n" in by_attach
    assert "the host does not say more: " in by_crash


LEAVES = """
import os, signal, subprocess, sys
from pathlib import Path

def test_hosts(xenblk_host, xenblk_disk):
    Path("first").write_text(str(xenblk_host.pid))

def test_same_host_again(xenblk_host, xenblk_frontend):
    assert Path("first").read_text() == str(xenblk_host.pid)
    xenblk_host.store.write("/tool/left", "here")

def test_not_after_something_was_left(xenblk_host):
    assert Path("first").read_text() != str(xenblk_host.pid)
    assert not xenblk_host.store.exists("/tool/left")

def test_a_stopped_backend(xenblk_backend, xenblk_frontend):
    xenblk_backend.signal(signal.SIGSTOP)
    xenblk_backend.kill()

def test_deaf(xenblk_host):
    child = "import time; print('child', flush=True); time.sleep(1000)"
    deaf = xenblk_host.run([sys.executable, "-c", '''
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(1000)
''', child])
    assert deaf.readline(30) == "child"
"""


def test_nothing_is_left(pytester: pytest.Pytester, temporary: Path) -> None:
    pytester.makepyfile(LEAVES)
    pytester.runpytest_subprocess().assert_outcomes(passed=5)


WAITS = """
import time

def test_wait(xenblk_host, xenblk_disk):
    program = xenblk_host.run("exec sleep 1000")
    open("started", "w").close()
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(pytester: pytest.Pytester, temporary: Path, number: signal.Signals) -> None:
    pytester.makepyfile(WAITS)
    pytest_process = subprocess.Popen([sys.executable, "-m", "pytest"], stdout=subprocess.DEVNULL)
    eventually((pytester.path / "started").exists, "the test has begun")
    assert len(_processes(temporary)) == 4
    pytest_process.send_signal(number)
    status = pytest_process.wait()
    assert status == (pytest.ExitCode.INTERRUPTED if number == signal.SIGINT else -number)
    eventually(lambda: not _processes(temporary) and not any(temporary.iterdir()), "all of it is gone")


UNUSED = """
import sys

def test_nothing_is_loaded():
    loaded = {name for name in sys.modules if name.split(".")[0] == "xenblk"}
    assert loaded <= {"xenblk", "xenblk.pytest_plugin"}
"""


def test_a_run_that_does_not_use_it(pytester: pytest.Pytester, temporary: Path) -> None:
    pytester.makepyfile(UNUSED)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    pytester.runpytest_subprocess("-p", "no:xenblk", "-n1").assert_outcomes(passed=1)
    done = pytester.runpytest_subprocess("-p", "no:xenblk", "--xenblk-engine=python")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
