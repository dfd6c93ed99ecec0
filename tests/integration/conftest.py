"""A host and its processes for tests, and a frontend that says what it is told to say."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenblk.abi import DOM0, Domid, GrantRef
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.blkfront.connection import Ring
from xenblk.blkif import X86_64, Abi, BlkifRequest, BlkifResponse
from xenblk.grants import Page
from xenblk.testing import AttachedVbd, XenHost, eventually
from xenblk.toolstack import frontend_path
from xenblk.xenbus import XenbusState

XVDA = 51712


class World:
    """A host with whatever a test adds to it, its disks by domain; all of it is gone afterwards."""

    def __init__(self, host: XenHost) -> None:
        self.host = host
        self.run_dir = host.run_dir
        self.host_pid = host.pid
        self.directory = host.directory
        self.control = host.control
        self.store = host.store
        self.backend = host.backend
        self.boot = host.boot
        self.eventually = eventually
        self.frontend_engine = "native"

    def vbd(self, domid: Domid, handle: int = XVDA) -> AttachedVbd:
        """A disk, attached or not any more."""
        return AttachedVbd(self.store, self.control, self.directory, domid, handle)

    def attach(self, disk: str = "memory:4M", mode: str = "w", handle: int = XVDA) -> Domid:
        """A new domain with a disk."""
        return self.host.attach(disk, mode, str(handle)).domid

    def frontend(self, domid: Domid, **options: object) -> Blkfront:
        """A connected frontend in this process."""
        return self.host.frontend(self.vbd(domid), **{"engine": self.frontend_engine, **options})

    def disk(self, domid: Domid, **options: object) -> VirtualDisk:
        """A connected disk in this process."""
        return VirtualDisk(self.frontend(domid, **options))

    def counts(self, domid: Domid, end: str = "back", handle: int = XVDA, queue: int = 0) -> dict[str, int]:
        """The counters of one of a disk's rings."""
        return self.vbd(domid, handle).counters(end, queue)

    def pins(self, domid: Domid) -> int:
        """How many pins there are on a domain's pages, also after it died."""
        return self.vbd(domid).pins()

    def backend_state(self, domid: Domid, handle: int = XVDA) -> XenbusState:
        """The state that the backend shows."""
        return self.vbd(domid, handle).backend_state()

    def error_of(self, domid: Domid, handle: int = XVDA) -> str:
        """What the backend recorded as the reason for closing."""
        return self.vbd(domid, handle).error()


@pytest.fixture
def world(xenblk_host: XenHost) -> World:
    """A host, no backend yet."""
    return World(xenblk_host)


class RawFrontend:
    """A frontend by hand: it publishes any keys, puts any bytes on its ring, and grants what it likes."""

    def __init__(self, world: World, domid: Domid, abi: Abi = X86_64, page_order: int = 0) -> None:
        self.world = world
        self.domid = domid
        self.abi = abi
        self.platform = world.boot(domid)
        self.path = frontend_path(domid, XVDA)
        self.ring = Ring(self.platform, DOM0, abi, page_order)
        self.keys = self.ring.keys()

    def connect(self, state: XenbusState = XenbusState.INITIALISED, **keys: str | None) -> None:
        """Publish the honest keys with changes (None leaves one out; `_` stands for `-`), then the state."""
        changed = {**self.keys, **{key.replace("_", "-"): value for key, value in keys.items()}}
        for key, value in changed.items():
            if value is not None:
                self.world.store.write(f"{self.path}/{key}", value)
        self.switch(state)

    def switch(self, state: XenbusState | str) -> None:
        """Write the state node."""
        self.world.store.write(f"{self.path}/state", state if isinstance(state, str) else str(int(state)))

    def await_backend(self, state: XenbusState) -> None:
        """Wait until the backend shows a state."""
        eventually(lambda: self.world.backend_state(self.domid) is state, f"backend {state.name}")

    def page(self, readonly: bool = False, domid: Domid = DOM0) -> tuple[GrantRef, Page]:
        """A page and a reference that grants it."""
        page = self.platform.memory.allocate_page()
        (ref,) = self.platform.grant_table.grant(domid, [page.frame], readonly)
        return ref, page

    def ask(self, *requests: BlkifRequest | bytes) -> list[BlkifResponse]:
        """Put requests, or the bytes of slots, on the ring and wait for as many answers."""
        ring = self.ring.sring
        for request in requests:
            ring.put(request if isinstance(request, bytes) else self.abi.pack_request(request))
        if ring.push():
            self.ring.channel.notify()
        answers: list[BlkifResponse] = []

        def collect() -> bool:
            while (slot := ring.consume()) is not None:
                answers.append(self.abi.parse_response(slot))
            return len(answers) == len(requests)

        eventually(collect, f"{len(requests)} answers")
        return answers

    def crash(self) -> None:
        """Leave without a word."""
        self.platform.close()


@pytest.fixture
def raw_frontend(world: World) -> Callable[..., RawFrontend]:
    """Makes frontends by hand."""
    return lambda *args, **options: RawFrontend(world, *args, **options)


class Script:
    """A Python program of a test's own, in a process that can be killed; it prints lines."""

    def __init__(self, source: str, *args: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", source, *args], stdout=subprocess.PIPE, text=True)

    def readline(self) -> str:
        """Its next line; fails if it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the script ended with {self.process.wait()}"
        return line.strip()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def close(self) -> None:
        """Kill it, if it is not gone."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    """Starts programs; kills what is left of them."""
    with contextlib.ExitStack() as stack:

        def start(source: str, *args: str) -> Script:
            started = Script(source, *args)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image of 4 MiB."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 4 << 20)
    return path
