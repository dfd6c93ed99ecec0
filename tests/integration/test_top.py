"""`xenblk top` beside a running host: figures, lines of JSON, a terminal, and how it ends."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenblk.cli.commands import cli

PATIENCE_S = 30
COLUMNS = ["domid", "vdev", "queue", "end", "req/s", "MB/s", "map/s", "unmap/s", "copy/s", "hits/s", "kept", "notify/s"]


@contextlib.contextmanager
def busy(disk: Any) -> Iterator[None]:
    """A disk that is read all the time."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            disk.pread(8192, 0)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()


def test_once_shows_both_ends_of_every_ring(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    world.backend("--max-queues", "2")
    world.attach("memory:1M")
    with busy(world.disk(domid := world.attach(), nr_queues=2)):
        cli(["top", "--run-dir", str(world.run_dir), "--once", "--interval", "0.3", "--json"], standalone_mode=False)
        rings = json.loads(capsys.readouterr().out)["rings"]
        cli(["top", "--run-dir", str(world.run_dir), "--once", "--interval", "0.01"], standalone_mode=False)
    assert [(ring["domid"], ring["vdev"], ring["queue"], ring["end"]) for ring in rings] == [
        (domid, "xvda", queue, end) for queue in (0, 1) for end in ("back", "front")
    ]
    for back, front in zip(rings[::2], rings[1::2], strict=True):
        assert back["MBps"] == pytest.approx(back["requests_per_s"] * 8192 / 1e6)
        assert back["requests_per_s"] > 0
        assert back["persistent_current"] == 2
        assert front["notify_sent_per_s"] > 0
        assert front["requests_per_s"] is None
    header, *rows = capsys.readouterr().out.splitlines()
    assert len(header) < 80
    assert header.split() == COLUMNS
    assert [row.split()[3] for row in rows] == ["back", "front"] * 2


class Top:
    """The command on a terminal of its own, and all that it wrote there."""

    def __init__(self, world: Any, *args: str) -> None:
        self.terminal, theirs = pty.openpty()
        self.settings = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xenblk", "top", "--run-dir", str(world.run_dir), "--interval", "0.05", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            start_new_session=True,
        )
        self.theirs = theirs
        self.text = ""

    def read_until(self, text: str) -> None:
        """Until it wrote this, after what was read before."""
        seen, end_s = len(self.text), time.monotonic() + PATIENCE_S
        while text not in self.text[seen:]:
            assert select.select([self.terminal], [], [], max(0, end_s - time.monotonic()))[0], self.text
            self.text += os.read(self.terminal, 65536).decode()

    def end(self) -> int:
        """Its exit status; it left the terminal as it was."""
        while self.process.poll() is None:
            if select.select([self.terminal], [], [], 0.05)[0]:
                self.text += os.read(self.terminal, 65536).decode()
        assert termios.tcgetattr(self.theirs) == self.settings
        return self.process.wait()

    def close(self) -> None:
        """Whatever became of it."""
        self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        os.close(self.terminal)


@pytest.fixture
def start_top(world: Any) -> Iterator[Callable[..., Top]]:
    """Starts the command with these options."""
    with contextlib.ExitStack() as undo:
        yield lambda *args: undo.enter_context(contextlib.closing(Top(world, *args)))


def test_q_ends_it_and_other_keys_do_not(world: Any, start_top: Callable[..., Top]) -> None:
    world.backend()
    top = start_top()
    top.read_until("req/s")
    os.write(top.terminal, b"x")
    domid = world.attach()
    top.read_until("req/s")
    with world.disk(domid) as disk:
        disk.pread(512, 0)
        top.read_until("front")
    top.read_until("req/s")
    os.write(top.terminal, b"zq")
    assert top.end() == 0
    assert "Traceback" not in top.text


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_an_interrupt_ends_it_without_a_word(start_top: Callable[..., Top], args: tuple[str, ...]) -> None:
    top = start_top(*args)
    top.read_until("rings" if args else "req/s")
    top.process.send_signal(signal.SIGINT)
    assert top.end() == 0
    assert "Traceback" not in top.text
    assert "interrupted" not in top.text


def test_without_a_host_there_is_a_sentence(tmp_path: Any) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "xenblk", "top", "--run-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("xenblk: no emulated Xen answers")
    assert "Traceback" not in run.stderr
