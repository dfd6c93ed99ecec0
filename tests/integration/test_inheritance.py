"""A backend that ends and the next one that goes on for it, under a guest that does not look: all stays Connected.

The guest is as simple as a ring allows: pages granted for good, requests put as slots come free, each answer checked
against the request that it must answer, and used again at once. So an answered request that was served once more would
write what its pages hold by then, and one that was forgotten is never answered.
"""

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk.blkback.journal import JournalFile, journal_path
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus, IndirectRequest
from xenblk.processes import Program
from xenblk.xenbus import XenbusState

NR_BLOCKS = 128
BLOCK = 4096
KILLS = 12
OFFERS = (
    (),
    ("--engine", "python"),
    ("--no-feature-persistent",),
    ("--grant-copy",),
    ("--max-indirect-segments", "0", "--max-ring-page-order", "0"),
)


def content(block: int, version: int) -> bytes:
    return (b"%08d %08d " % (block, version) * BLOCK)[:BLOCK] if version else bytes(BLOCK)


class Guest:
    """Reads, writes and flushes with as many requests in flight as the ring has slots; a block is in one at a time."""

    def __init__(self, frontend: Any, rng: random.Random) -> None:
        self.frontend = frontend
        self.rng = rng
        self.pages = [frontend.page() for _ in range(frontend.ring.sring.nr_ents)]
        self.versions = [0] * NR_BLOCKS
        self.blocks = list(range(NR_BLOCKS))
        self.in_flight: dict[int, tuple[int, int, int, Any]] = {}
        self.nr_asked = 0
        self.nr_answered = 0

    def ask(self) -> None:
        """Fill the ring."""
        ring = self.frontend.ring
        while self.pages and ring.sring.free_slots:
            self.nr_asked += 1
            page = self.pages.pop()
            ring.sring.put(self.frontend.abi.pack_request(self.request(self.nr_asked, page)))
        if ring.sring.push():
            ring.channel.notify()

    def request(self, number: int, page: Any) -> BlkifRequest:
        kind = self.rng.random()
        if kind < 0.2:
            self.in_flight[number] = (BlkifOp.FLUSH_DISKCACHE, -1, 0, page)
            return BlkifRequest(BlkifOp.FLUSH_DISKCACHE, 0, number, 0, 0, ())
        block = self.blocks.pop(self.rng.randrange(len(self.blocks)))
        write = kind < 0.7
        version = self.versions[block] + write
        ref, memory = page
        memory.view[:] = content(block, version) if write else bytes([0xEE]) * BLOCK
        operation = BlkifOp.WRITE if write else BlkifOp.READ
        self.in_flight[number] = (operation, block, version, page)
        return BlkifRequest(operation, 0, number, block * BLOCK // 512, 1, (BlkifSegment(ref, 0, 7),))

    def collect(self) -> None:
        """Check what was answered."""
        ring = self.frontend.ring
        while (slot := ring.sring.consume()) is not None:
            response = self.frontend.abi.parse_response(slot)
            operation, block, version, page = self.in_flight.pop(response.id)  # KeyError: it was answered before
            assert (response.operation, response.status) == (operation, BlkifStatus.OKAY)
            self.nr_answered += 1
            self.pages.append(page)
            if block < 0:
                continue
            assert bytes(page[1].view) == content(block, version), f"block {block} is not as version {version}"
            self.versions[block] = version
            self.blocks.append(block)
        if not ring.sring.final_check():
            ring.channel.wait(0.01)

    def finish(self) -> None:
        """Let everything be answered."""

        def done() -> bool:
            self.collect()
            return not self.in_flight

        self.frontend.world.eventually(done, "every request is answered")

    def image(self) -> bytes:
        """What the disk holds then."""
        return b"".join(content(block, version) for block, version in enumerate(self.versions))


class Killer(threading.Thread):
    """Kills the backend at random moments, and starts the next, which is of another kind."""

    def __init__(self, world: Any, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.rng = rng
        self.backend: Program = world.backend()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """KILLS times; the last backend stays."""
        try:
            for _ in range(KILLS):
                time.sleep(self.rng.random() * 0.1)
                self.backend.kill()
                self.backend = self.world.backend(*self.rng.choice(OFFERS))
        except BaseException as e:  # told to the test, which is another thread
            self.failure = e


def connected(frontend: Any, **keys: str) -> Any:
    frontend.connect(feature_persistent="1", **keys)
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.switch(XenbusState.CONNECTED)
    return frontend


def read_request(frontend: Any, number: int) -> BlkifRequest:
    ref, _page = frontend.page()
    return BlkifRequest(BlkifOp.READ, 0, number, 0, 1, (BlkifSegment(ref, 0, 0),))


@pytest.mark.parametrize("page_order", [0, 2])
def test_a_guest_that_sees_no_backend_end(
    world: Any, raw_frontend: Callable[..., Any], image: Path, page_order: int
) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = random.Random(seed)
    killer = Killer(world, random.Random(rng.random()))
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid, page_order=page_order), ring_page_order=str(page_order))
    guest = Guest(frontend, rng)
    killer.start()
    while killer.is_alive():
        guest.ask()
        guest.collect()
    assert killer.failure is None
    guest.finish()
    assert guest.nr_answered == guest.nr_asked > KILLS * 32
    assert world.backend_state(domid) is XenbusState.CONNECTED
    assert world.error_of(domid) == ""
    assert image.read_bytes()[: NR_BLOCKS * BLOCK] == guest.image()
    print(f"{guest.nr_answered} requests")


def test_a_backend_that_is_stopped_may_leave_its_guests_to_the_next(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    first = world.backend("--keep-connected")
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid))
    frontend.ask(read_request(frontend, 1))
    first.stop()
    assert world.backend_state(domid) is XenbusState.CONNECTED
    assert world.pins(domid) == 0
    frontend.ring.sring.put(frontend.abi.pack_request(read_request(frontend, 2)))
    frontend.ring.sring.push()
    world.backend()
    world.eventually(lambda: frontend.ring.sring.consume() is not None, "the answer")


def test_what_was_promised_is_kept(world: Any, raw_frontend: Callable[..., Any], image: Path) -> None:
    """A backend that would offer less: no indirect requests, no rings of two pages."""
    first = world.backend()
    frontend = connected(raw_frontend(world.attach(str(image)), page_order=1), ring_page_order="1")
    first.kill()
    world.backend("--max-indirect-segments", "0", "--max-ring-page-order", "0")
    pages = [frontend.page() for _ in range(16)]
    table_ref, table = frontend.page()
    for n, (ref, _page) in enumerate(pages):
        table.view[8 * n : 8 * n + 8] = ref.to_bytes(4, "little") + bytes([0, 7, 0, 0])
    request = IndirectRequest(BlkifOp.READ, 0, 1, 0, len(pages), (table_ref, *[0] * 7))
    assert frontend.ask(request)[0].status == BlkifStatus.OKAY


def test_the_next_one_waits_until_the_first_one_is_done(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """Whoever holds the journal's lock serves the ring, or its disk may write still."""
    first = world.backend()
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid))
    first.signal(signal.SIGSTOP)
    second = world.backend()
    world.eventually(lambda: "this one waits" in second.stderr(), "the second waits")
    first.kill()
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    assert world.backend_state(domid) is XenbusState.CONNECTED


def test_a_guest_that_leaves_meanwhile_is_let_go(world: Any, raw_frontend: Callable[..., Any], image: Path) -> None:
    first = world.backend()
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid))
    first.signal(signal.SIGSTOP)
    second = world.backend()
    world.eventually(lambda: "this one waits" in second.stderr(), "the second waits")
    frontend.switch(XenbusState.CLOSING)
    frontend.await_backend(XenbusState.CLOSING)
    frontend.switch(XenbusState.CLOSED)
    frontend.await_backend(XenbusState.CLOSED)
    first.kill()
    frontend.switch(XenbusState.INITIALISING)
    frontend.await_backend(XenbusState.INITWAIT)
    connected(frontend)
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY


def test_a_guest_that_starts_over_after_all(world: Any, raw_frontend: Callable[..., Any], image: Path) -> None:
    """It saw the first backend end and not the second one begin."""
    first = world.backend()
    frontend = connected(raw_frontend(world.attach(str(image))))
    first.kill()
    world.backend()
    frontend.ask(read_request(frontend, 1))
    frontend.switch(XenbusState.INITIALISING)
    frontend.await_backend(XenbusState.INITWAIT)
    connected(frontend)
    assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY


def say_taken(journal: Path, nr_entries: int) -> None:
    """Have the first entries say that they hold requests without an answer."""
    data = bytearray(journal.read_bytes())
    for entry in range(nr_entries):
        data[64 + 128 * entry + 120] = 1
    journal.write_bytes(data)


@pytest.mark.parametrize("lie", ["more than there are", "another ring"])
def test_a_journal_that_does_not_fit_the_ring(
    world: Any, raw_frontend: Callable[..., Any], image: Path, lie: str
) -> None:
    first = world.backend()
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid))
    frontend.ask(read_request(frontend, 1))
    first.kill()
    path = journal_path(world.directory.journals, f"vbd-0-{domid}-51712", 0)
    if lie == "another ring":
        JournalFile.create(path, bytes(32), 32).close()
    else:
        say_taken(path, 1)
    world.backend()
    frontend.await_backend(XenbusState.INITWAIT)
    frontend.await_backend(XenbusState.CONNECTED)
    assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY
    assert world.error_of(domid) == ""


def test_a_journal_goes_with_its_device(world: Any, raw_frontend: Callable[..., Any], image: Path) -> None:
    """Also where no backend served the device by then; what another type of backend has is not looked at."""
    first = world.backend()
    domids = [world.attach(str(image)) for _ in range(2)]
    path, kept = (world.directory.journals / f"vbd-0-{domid}-51712-0.journal" for domid in domids)
    for domid in domids:
        connected(raw_frontend(domid))
    assert path.exists()
    assert kept.exists()
    first.kill()
    path.with_suffix(".1").touch()  # as a backend leaves it that dies while it makes one
    world.store.rm(f"/local/domain/0/backend/vbd/{domids[0]}")
    world.backend("--backend-type", "other")
    world.eventually(lambda: not path.exists(), "the journal is removed")
    assert [file.name for file in path.parent.iterdir()] == [kept.name]


def test_regression_a_journal_that_does_not_fit_is_not_forgotten(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """The first event at the frontend's state, which every watch has, had the ring served as if it were a new one."""
    first = world.backend()
    domid = world.attach(str(image))
    frontend = connected(raw_frontend(domid))
    first.signal(signal.SIGSTOP)
    frontend.ring.sring.put(frontend.abi.pack_request(read_request(frontend, 1)))
    frontend.ring.sring.push()
    first.kill()
    path = journal_path(world.directory.journals, f"vbd-0-{domid}-51712", 0)
    say_taken(path, 2)
    world.backend()
    frontend.await_backend(XenbusState.CLOSING)
    for _ in range(2):
        assert "a backend died with requests on this ring" in world.error_of(domid)
        frontend.switch(XenbusState.CONNECTED)
        world.attach()  # served by the same thread, one after the other
        assert world.backend_state(domid) is XenbusState.CLOSING
    assert frontend.ring.sring.consume() is None
