"""Debian's own xenstored, without Xen: a process to compare with, and domains whose rings and deaths a test arranges.

`make oracle` puts the daemon and the shim (shim.c, which also describes the files below) into build/oracle. A test that
needs them uses the fixture `real_xenstored`, which says what is lacking where they could not be fetched.
"""

import contextlib
import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2] / "build" / "oracle"
DEADLINE_S: Final = 30.0
VIRQ: Final = 0xFFFFFFFF
PAGE_BYTES: Final = 4096


def lacking() -> str | None:
    """What is missing for a real xenstored, None if nothing is."""
    reason = ROOT / "lacking"
    if reason.exists():
        return f"the real xenstored is not at hand: {reason.read_text().strip()}"
    return None if (ROOT / "ready").exists() else "the real xenstored is not at hand: run `make oracle`"


def environment() -> dict[str, str]:
    """What Xen's own programs need to find their libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": str(next((ROOT / "root/usr/lib").glob("*-linux-gnu")))}


def program(name: str) -> str:
    """One of Xen's own programs, such as test-xenstore."""
    for folder in ("usr/lib/xen-4.17/bin", "usr/bin", "usr/sbin"):
        if (path := ROOT / "root" / folder / name).exists():
            return str(path)
    raise FileNotFoundError(name)


class RealXenstored:
    """A running daemon; `socket` is where domain 0 connects. `close` ends it and removes its folder.

    With a `time_scale`, the daemon's clock runs faster, so that what it limits per second hardly waits.
    """

    def __init__(self, *options: str, time_scale: int = 1) -> None:
        programs = environment()
        self.folder = Path(tempfile.mkdtemp(prefix="xenstored-"))
        for name in ("dom", "page", "notify", "run"):
            (self.folder / name).mkdir()
        (self.folder / "xsd_port").write_text("1")
        self.socket = str(self.folder / "run" / "socket")
        self.set_state(0, "r")
        self._make_page(0)
        env = {
            **programs,
            "XEN_SHIM_DIR": str(self.folder),
            "XEN_SHIM_TIME_SCALE": str(time_scale),
            "XENSTORED_RUNDIR": str(self.folder / "run"),
            "LD_PRELOAD": str(ROOT / "shim.so"),
        }
        env.pop("XENSTORED_PATH", None)
        self.process = subprocess.Popen(
            [program("xenstored"), "-N", *options], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._evtchn = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._await_start()

    def _await_start(self) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(self.socket)
                return
            time.sleep(0.01)
        self.close()
        raise RuntimeError(f"the real xenstored did not start: {self.process.returncode}")

    def _make_page(self, domid: int) -> Path:
        page = self.folder / "page" / str(domid)
        page.write_bytes(bytes(PAGE_BYTES))
        return page

    def set_state(self, domid: int, state: str) -> None:
        """Make a domain, or say that it is r(unning), s(hut down), c(rashed) or d(ying)."""
        (self.folder / "dom" / str(domid)).write_text(state)

    def create_domain(self, domid: int) -> mmap.mmap:
        """A domain that xenstored can be told of by INTRODUCE; gives its xenstore page."""
        page = self._make_page(domid)
        self.set_state(domid, "r")
        with page.open("r+b") as file:
            return mmap.mmap(file.fileno(), PAGE_BYTES)

    def destroy_domain(self, domid: int) -> None:
        """The domain is gone, and xenstored hears that some domain is."""
        for name in ("dom", "page"):
            (self.folder / name / str(domid)).unlink()
        self.raise_virq()

    def raise_virq(self) -> None:
        """Some domain changed its state."""
        self._send(VIRQ)

    def notify(self, domid: int) -> None:
        """What a domain's event channel does."""
        self._send(domid)

    def _send(self, domid: int) -> None:
        self._evtchn.sendto(struct.pack("=I", domid), str(self.folder / "evtchn"))

    def close(self) -> None:
        """End the daemon."""
        self.process.kill()
        self.process.wait()
        if hasattr(self, "_evtchn"):
            self._evtchn.close()
        shutil.rmtree(self.folder, ignore_errors=True)
