"""The frontend's side of xenbus: several queues, sizes that change, and backends that come and go under a load."""

import errno
import os
import random
import select
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from xenblk import toolstack
from xenblk.abi import DOM0, Domid
from xenblk.blkfront import Bio, Blkfront, VirtualDisk
from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError
from xenblk.toolstack import DiskOptions, backend_path, detach, frontend_path
from xenblk.xenbus import XenbusState
from xenblk.xenstore.client import XenstoreTransaction

XVDA = 51712
BLOCK = 4096
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])


def collect(frontend: Blkfront, bios: set[Bio], timeout_s: float = 20.0) -> None:
    """Poll until all of these are done, each once."""
    deadline_s = time.monotonic() + timeout_s
    while bios:
        assert time.monotonic() < deadline_s, f"{len(bios)} bios never ended"
        for bio in frontend.poll(1.0):
            bios.remove(bio)


def write_blocks(frontend: Blkfront, content: bytes, blocks: range) -> None:
    bios = {frontend.submit(BlkifOp.WRITE, n * BLOCK, memoryview(content * BLOCK)) for n in blocks}
    collect(frontend, set(bios))
    assert not [bio.error for bio in bios if bio.error]


@ENGINES
@pytest.mark.parametrize(("asked", "offered", "got"), [(4, 2, 2), (2, 4, 2), (1, 4, 1), (4, 1, 1)])
def test_queues_as_many_as_both_want(world: Any, engine: str, asked: int, offered: int, got: int) -> None:
    world.backend("--engine", engine, "--max-queues", str(offered))
    domid = world.attach()
    frontend = world.frontend(domid, engine=engine, nr_queues=asked, ring_page_order=1)
    assert frontend.nr_queues == got
    front = frontend_path(domid, XVDA)
    assert world.store.exists(f"{front}/ring-ref0") == (got == 1)
    assert world.store.exists(f"{front}/queue-1/ring-ref1") == (got > 1)
    write_blocks(frontend, b"q", range(64))
    assert VirtualDisk(frontend).pread(64 * BLOCK, 0) == b"q" * 64 * BLOCK
    assert [world.counts(domid, queue=n)["wr_req"] for n in range(got)] == [64 // got] * got
    frontend.close()
    assert world.pins(domid) == 0


@ENGINES
def test_a_descriptor_for_all_queues(world: Any, engine: str) -> None:
    world.backend()
    frontend = world.frontend(world.attach(), engine=engine, nr_queues=2)
    poll = select.poll()
    poll.register(frontend.fileno(), select.POLLIN)
    for n in range(20):
        bio = frontend.submit(BlkifOp.WRITE, n * BLOCK, memoryview(bytes(BLOCK)))
        done = frontend.poll(0)
        while not done:
            assert poll.poll(10_000)
            frontend.take_event()
            done = frontend.poll(0)
        assert done == [bio]


def test_a_frontend_finds_what_another_left(world: Any) -> None:
    """A kernel that hands over to another without a word: more queues before, one afterwards."""
    world.backend("--max-queues", "4")
    domid = world.attach()
    platform = world.boot(domid)
    first = Blkfront(platform, XVDA, nr_queues=3, ring_page_order=2)
    first.connect()
    VirtualDisk(first).pwrite(b"1" * BLOCK, 0)
    with first._xenbus.lock:  # or it would follow the backend to Closed, in the same node
        first._xenbus._closing = True
    second = Blkfront(platform, XVDA)
    second.connect()
    assert VirtualDisk(second).pread(BLOCK, 0) == b"1" * BLOCK
    keys = world.store.directory(frontend_path(domid, XVDA))
    assert not [key for key in keys if key.startswith("queue-") or key in ("multi-queue-num-queues", "ring-page-order")]
    second.close()
    first.close()


@ENGINES
def test_a_new_size_is_picked_up(world: Any, image: Path, engine: str) -> None:
    world.backend("--engine", engine)
    sizes: list[int] = []
    frontend = world.frontend(world.attach(str(image)), engine=engine, on_resize=sizes.append)
    disk = VirtualDisk(frontend)
    os.truncate(image, 8 << 20)
    world.eventually(lambda: sizes == [8 << 20], "the frontend was told")
    disk.pwrite(b"e" * BLOCK, (8 << 20) - BLOCK)
    assert disk.pread(BLOCK, (8 << 20) - BLOCK) == b"e" * BLOCK
    os.truncate(image, 1 << 20)
    world.eventually(lambda: sizes == [8 << 20, 1 << 20], "the frontend was told")
    with pytest.raises(UsageError, match="outside the disk"):
        frontend.submit(BlkifOp.READ, 1 << 20, memoryview(bytearray(512)))


@ENGINES
@pytest.mark.parametrize("nr_queues", [1, 2])
def test_hot_unplug_under_load_ends_every_bio(world: Any, engine: str, nr_queues: int) -> None:
    world.backend("--max-queues", "2")
    domid = world.attach()
    frontend = world.frontend(domid, engine=engine, nr_queues=nr_queues, recover=nr_queues == 2)
    outcome: list[int] = []

    def load() -> None:
        bios: set[Bio] = set()
        try:
            while True:
                while len(bios) < 16:
                    bios.add(frontend.submit(BlkifOp.WRITE, len(bios) * BLOCK, memoryview(bytes(BLOCK))))
                bios -= set(frontend.poll(1.0))
        except OSError as e:
            collect(frontend, bios)
            outcome.append(e.errno or 0)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.1)
    detach(world.store, domid, XVDA)
    thread.join(20)
    assert outcome == [errno.ENODEV]
    assert world.pins(domid) == 0


class Load:
    """Writes of known content all over an image, 32 in flight; one block is never in flight twice."""

    def __init__(self, frontend: Blkfront, seed: int) -> None:
        self.frontend = frontend
        self.rng = random.Random(seed)
        self.content = [b"\0"] * 64
        self._version = 0
        self._in_flight: dict[Bio, int] = {}
        self._free = list(range(64))

    def submit(self) -> None:
        """Have 32 writes in flight."""
        while len(self._in_flight) < 32:
            self._version += 1
            block = self._free.pop(self.rng.randrange(len(self._free)))
            self.content[block] = bytes([self._version % 251 + 1])
            data = memoryview(self.content[block] * BLOCK)
            self._in_flight[self.frontend.submit(BlkifOp.WRITE, block * BLOCK, data)] = block

    def collect(self, timeout_s: float) -> int:
        """Take what is done, each bio once, all of them good; how many are not done."""
        for bio in self.frontend.poll(timeout_s):
            assert bio.error is None
            self._free.append(self._in_flight.pop(bio))
        return len(self._in_flight)

    def run(self, seconds: float) -> None:
        """Write for so long."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.submit()
            self.collect(0.01)

    def finish(self) -> None:
        """Let all of it be done, and make it durable."""
        deadline_s = time.monotonic() + 30
        while left := self.collect(1.0):
            assert time.monotonic() < deadline_s, f"{left} bios never ended"
        flush = self.frontend.submit(BlkifOp.FLUSH_DISKCACHE)
        collect(self.frontend, {flush})
        assert flush.error is None


@ENGINES
@pytest.mark.parametrize(("nr_queues", "how"), [(1, "kill"), (2, "kill"), (2, "stop")])
def test_recovery_loses_nothing(world: Any, image: Path, engine: str, nr_queues: int, how: str) -> None:
    """Backends that end at random moments under a load of writes, each followed by one that offers something else."""
    backend = world.backend("--max-queues", "2")
    frontend = world.frontend(world.attach(str(image)), engine=engine, nr_queues=nr_queues, recover=True)
    load = Load(frontend, seed=11)
    for options in (("--no-feature-persistent", "--max-queues", "1"), ("--engine", "python", "--max-queues", "2")):
        load.run(0.05 + load.rng.random() * 0.1)
        load.submit()
        load.collect(0)
        getattr(backend, how)()
        backend = world.backend(*options)
        load.finish()
        assert image.read_bytes()[: 64 * BLOCK] == b"".join(block * BLOCK for block in load.content)
    assert not frontend.lost


@ENGINES
def test_a_disk_that_waits_for_its_backend_can_be_used_and_closed(world: Any, image: Path, engine: str) -> None:
    backend = world.backend()
    domid = world.attach(str(image))
    frontend = world.frontend(domid, engine=engine, recover=True)
    backend.kill()
    world.eventually(lambda: frontend.nr_queues == 0, "the frontend noticed")
    bio = frontend.submit(BlkifOp.WRITE, 0, memoryview(b"w" * BLOCK))
    assert frontend.poll(0.05) == []
    world.backend()
    collect(frontend, {bio})
    assert image.read_bytes()[:BLOCK] == b"w" * BLOCK


def test_a_disk_that_waits_for_its_backend_ends_its_bios_when_it_is_closed(world: Any) -> None:
    backend = world.backend()
    frontend = world.frontend(world.attach(), recover=True)
    backend.kill()
    world.eventually(lambda: frontend.nr_queues == 0, "the frontend noticed")
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BLOCK)))
    frontend.close(timeout_s=0.1)
    assert frontend.poll(0) == [bio]
    assert bio.error is not None
    assert bio.error.errno == errno.ENODEV


@ENGINES
def test_resume_submits_again_what_was_in_flight(world: Any, image: Path, engine: str) -> None:
    world.backend()
    frontend = world.frontend(world.attach(str(image)), engine=engine, recover=True)
    for n in range(3):
        bios = {frontend.submit(BlkifOp.WRITE, b * BLOCK, memoryview(bytes([n + 1]) * BLOCK)) for b in range(32)}
        done = frontend.poll(0)
        frontend.resume()
        collect(frontend, bios - set(done))
        assert not [bio.error for bio in bios if bio.error]
        assert image.read_bytes()[: 32 * BLOCK] == bytes([n + 1]) * 32 * BLOCK
    frontend.close()


def test_a_backend_that_refuses_again_and_again_ends_recovery(world: Any) -> None:
    backend = world.backend("--max-persistent-grants", "8")
    domid = world.attach()
    frontend = world.frontend(domid, recover=True)
    backend.kill()
    world.store.write(f"{backend_path(DOM0, domid, XVDA)}/params", "/no/such/image")
    world.backend()
    world.eventually(lambda: frontend.lost, "the frontend gave up")
    with pytest.raises(OSError, match="no disk image"):
        frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BLOCK)))
    assert world.backend_state(domid) in (XenbusState.CLOSING, XenbusState.CLOSED)


@pytest.mark.parametrize("sector_size", ["0", "1000", "8192"])
def test_regression_sectors_that_no_request_can_have_are_refused(world: Any, sector_size: str) -> None:
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])

    def make(transaction: XenstoreTransaction) -> None:
        toolstack._make_nodes(transaction, domid, XVDA, "memory:1M", "w", DOM0, DiskOptions())
        for key, value in {"sectors": "2048", "sector-size": sector_size, "state": "4"}.items():
            transaction.write(f"{backend_path(DOM0, domid, XVDA)}/{key}", value)

    world.store.transact(make)
    frontend = Blkfront(world.boot(domid), XVDA)
    with pytest.raises(OSError, match=f"the sectors of a disk have .* bytes, not {sector_size}"):
        frontend.connect()
    frontend.close(timeout_s=0)


def test_regression_resume_follows_another_backend(world: Any, image: Path) -> None:
    """Where the domain runs again its disk is served elsewhere: as a device of another name here."""
    world.backend()
    domid = world.attach(str(image))
    frontend = world.frontend(domid, recover=False)
    old, new = (f"{backend_path(DOM0, domid, XVDA)}{suffix}" for suffix in ("", "0"))

    def move(transaction: XenstoreTransaction) -> None:
        transaction.mkdir(new)
        transaction.set_perms(new, ["n0", f"r{domid}"])
        for key in ("frontend", "frontend-id", "params", "mode"):
            transaction.write(f"{new}/{key}", transaction.read(f"{old}/{key}"))
        transaction.write(f"{new}/online", "1")
        transaction.write(f"{old}/online", "0")
        transaction.write(f"{frontend_path(domid, XVDA)}/backend", new)
        transaction.write(f"{new}/state", "1")

    world.store.transact(move)
    bio = frontend.submit(BlkifOp.WRITE, 0, memoryview(b"m" * BLOCK))
    frontend.resume()
    collect(frontend, {bio})
    assert bio.error is None
    assert not world.store.exists(old)
    assert image.read_bytes()[:BLOCK] == b"m" * BLOCK


def test_regression_a_callback_that_fails_stops_nothing(
    world: Any, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a size that changed while there was no backend go unnoticed."""
    sizes: list[int] = []

    def fail(size: int) -> None:
        sizes.append(size)
        raise ValueError("not this size")

    backend = world.backend()
    frontend = world.frontend(world.attach(str(image)), recover=True, on_resize=fail)
    os.truncate(image, 8 << 20)
    world.eventually(lambda: sizes == [8 << 20], "the frontend was told")
    backend.kill()
    os.truncate(image, 2 << 20)
    world.backend()
    world.eventually(lambda: sizes == [8 << 20, 2 << 20], "the frontend was told")
    write_blocks(frontend, b"c", range(4))
    assert caplog.text.count("on_resize, failed") == 2


def test_regression_a_disk_that_is_removed_while_it_waits_for_its_backend_is_lost(world: Any) -> None:
    backend = world.backend()
    domid = world.attach()
    frontend = world.frontend(domid, recover=True)
    backend.kill()
    world.eventually(lambda: frontend.nr_queues == 0, "the frontend noticed")
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(BLOCK)))
    world.store.rm(f"/local/domain/0/backend/vbd/{domid}")
    collect(frontend, {bio})
    assert bio.error is not None
    assert (bio.error.errno, frontend.lost) == (errno.ENODEV, True)
