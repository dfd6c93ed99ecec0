"""A backend that is killed again and again under a load, and followed by one that offers something else each time.

The model of the disk is strict, as the backend's image outlives it: a block holds what was last acknowledged, or the
write that is in flight. Bios are counted: each ends once, and none with an error.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk.blkfront import Bio, Blkfront
from xenblk.blkfront.handshake import Handshake
from xenblk.blkif import BlkifOp
from xenblk.xenbus import XenbusState as S

BLOCK = 8192
NR_BLOCKS = 128
IN_FLIGHT = 24
KILLS = 17
HANG_S = 60.0

OFFERS = (
    (),
    ("--no-feature-persistent",),
    ("--engine", "python"),
    ("--max-indirect-segments", "0"),
    ("--max-queues", "1"),
    ("--grant-copy",),
    ("--max-persistent-grants", "8"),
    ("--engine", "python", "--no-feature-persistent", "--max-indirect-segments", "0"),
)


def _content(block: int, version: int) -> bytes:
    return b"%08d %08d " % (block, version) * (BLOCK // 18) + bytes(BLOCK % 18)


class ModelledDisk:
    """Reads, writes and flushes of a disk, checked against what it must hold; a block is in one bio at a time."""

    def __init__(self, frontend: Blkfront, rng: random.Random) -> None:
        self._frontend = frontend
        self._rng = rng
        self._versions = [0] * NR_BLOCKS
        self._free = list(range(NR_BLOCKS))
        self._in_flight: dict[Bio, tuple[int, int, Any]] = {}
        self.nr_done = 0

    def submit(self) -> None:
        """Fill up what is in flight."""
        while len(self._in_flight) < IN_FLIGHT:
            kind = self._rng.random()
            if kind < 0.1:
                self._in_flight[self._frontend.submit(BlkifOp.FLUSH_DISKCACHE)] = (-1, 0, None)
                continue
            block = self._free.pop(self._rng.randrange(len(self._free)))
            if kind < 0.7:
                version = self._versions[block] + 1
                data, op = bytearray(_content(block, version)), BlkifOp.WRITE
            else:
                version, data, op = self._versions[block], bytearray(BLOCK), BlkifOp.READ
            self._in_flight[self._frontend.submit(op, block * BLOCK, memoryview(data))] = (block, version, data)

    def collect(self, timeout_s: float) -> int:
        """Check what is done; how many are not."""
        for bio in self._frontend.poll(timeout_s):
            block, version, data = self._in_flight.pop(bio)  # KeyError: it was done before
            assert bio.error is None, bio.error
            self.nr_done += 1
            if block < 0:
                continue
            self._free.append(block)
            if bio.op == BlkifOp.READ:
                expected = _content(block, version) if version else bytes(BLOCK)
                assert data == expected, f"block {block} is not as version {version}, but begins {bytes(data[:18])!r}"
            self._versions[block] = version
        return len(self._in_flight)

    def finish(self) -> None:
        """Let everything be done."""
        deadline_s = time.monotonic() + HANG_S
        while left := self.collect(1.0):
            assert time.monotonic() < deadline_s, f"{left} bios never ended"

    def image(self) -> bytes:
        """What the disk holds once everything is done."""
        return b"".join(
            _content(block, version) if version else bytes(BLOCK) for block, version in enumerate(self._versions)
        )


class Killer(threading.Thread):
    """Kills the backend at random moments, and starts the next: before the frontend notices, after it, or whenever."""

    xenbus: Handshake
    nr_done: Callable[[], int]

    def __init__(self, world: Any, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._rng = rng
        self.backend = world.backend()
        self.nr_taken_over = 0
        self.nr_started_over = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """KILLS times, and no sooner than the load did something; the last backend stays."""
        try:
            for n in range(KILLS):
                time.sleep(self._rng.random() * 0.2)
                enough = (n + 1) * IN_FLIGHT // 2
                self._eventually(lambda enough=enough: self.nr_done() > enough, "any load")
                (self._take_over, self._start_over, self._replace)[n % 3]()
        except BaseException as e:  # told to the test, which is another thread
            self.failure = e

    def _replace(self) -> None:
        self.backend.kill()
        self.backend = self._world.backend(*self._rng.choice(OFFERS))

    def _take_over(self) -> None:
        """The frontend, which can do nothing meanwhile, goes on with the rings that it has."""
        self._eventually(self._is_settled, "a connection")
        with self.xenbus.lock:
            queues = self.xenbus.queues
            assert queues is not None
            self._replace()
            self._eventually(lambda: queues.remote_bound, "the rings are taken over")
            done = self.nr_done()
        self._eventually(lambda: self.nr_done() > done + IN_FLIGHT, "what is submitted later is done, too")
        assert self.xenbus.queues is queues
        self.nr_taken_over += 1

    def _start_over(self) -> None:
        """The frontend sees that it has no backend, and offers new rings to the next."""
        self._eventually(self._is_settled, "a connection")
        queues = self.xenbus.queues
        self.backend.kill()
        self._eventually(lambda: not self.xenbus.connected, "the frontend notices")
        self.backend = self._world.backend(*self._rng.choice(OFFERS))
        self._eventually(lambda: self.xenbus.connected, "another connection")
        assert self.xenbus.queues is not queues
        self.nr_started_over += 1

    def _is_settled(self) -> bool:
        """Whether the frontend is connected, and not to the backend that was killed last."""
        with self.xenbus.lock:
            queues, shown = self.xenbus.queues, self.xenbus.nodes.backend_state
            return self.xenbus.connected and queues is not None and queues.remote_bound and shown is S.CONNECTED

    def _eventually(self, condition: Callable[[], bool], what: str) -> None:
        self._world.eventually(condition, what, HANG_S)


@pytest.mark.parametrize(("engine", "nr_queues"), [("native", 1), ("native", 2), ("python", 1)])
def test_no_write_is_lost_and_no_request_done_twice(world: Any, tmp_path: Path, engine: str, nr_queues: int) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = random.Random(seed)
    image = tmp_path / "recovery.img"
    image.write_bytes(bytes(NR_BLOCKS * BLOCK))
    killer = Killer(world, random.Random(rng.random()))
    frontend = world.frontend(world.attach(str(image)), engine=engine, nr_queues=nr_queues, recover=True)
    disk = ModelledDisk(frontend, rng)
    killer.xenbus, killer.nr_done = frontend._xenbus, lambda: disk.nr_done
    killer.start()
    while killer.is_alive():
        disk.submit()
        disk.collect(0.01)
    assert killer.failure is None
    assert killer.nr_taken_over == killer.nr_started_over == KILLS // 3 + 1
    disk.finish()
    frontend.close()
    assert image.read_bytes() == disk.image()
