"""Xen's security advisories on block drivers, as tests of ours. Where the others are:

    CVE-2010-3699         B-CVE-2010-3699, B-LIFE-004; test_backend_life.py, a hundred connections
    CVE-2010-4247         B-CVE-2010-4247, B-RING-013 to 018, B-QUEUE-007; here, what a stopped ring costs, and an index
                          that changes all the time
    CVE-2013-2140         B-CVE-2013-2140; unit/blkback/test_operations.py
    CVE-2026-100082       test_statistics.py
    XSA-142, 266          B-XSA142-*; test_backend_life.py, modes and a missing one
    XSA-155               B-XSA155-*; test_hostile.py; native/test_back_operations.c
    XSA-175, 178          B-XSA175-001
    XSA-216               B-XSA216-*, B-ABI-021 and 022; unit/blkback/test_engine.py
    XSA-229               B-XSA229-001
    XSA-331, 441          B-XSA331-001, F-XSA-441
    XSA-332               B-XSA332-001, B-RING-020
    XSA-349               B-XSA349-001; test_backend_life.py
    XSA-350               B-XSA350-001, B-LIFE-012; here, without waiting for the backend
    XSA-361, 362, 365, 371  B-XSA365-*, B-INDIRECT-021, B-PERSIST-013; unit/blkback/test_operations.py
    XSA-376               a statement on which peer is trusted: ours is the README's; F-RESP-*, F-GRANT-012
    XSA-391               F-XSA-391
    XSA-396               F-XSA-396; unit/blkfront/test_distrust.py, unit/grants/test_table.py
    XSA-403               F-XSA-403-*; unit/blkfront/test_distrust.py; here, a backend that is not trusted
    XSA-448               B-XSA448-001, B-DISCARD-008
    Linux 6.12.117, unplug  F-LIFE-027; test_frontend_life.py

B- and F- are cases of `xenblk conform`, which test_conform_backend.py and test_conform_frontend.py run with either
engine. What concerns the hypervisor is in unit/grants, what concerns xenstore in xenstore/test_advisories.py.
"""

import dataclasses
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk import toolstack
from xenblk.abi import PAGE_SIZE, Domid
from xenblk.blkfront.connection import Ring
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.toolstack import DiskOptions
from xenblk.xenbus import XenbusState as S

XVDA = 51712
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])
NR_EVENTS = 1500


def read_request(ref: int, number: int) -> BlkifRequest:
    return BlkifRequest(BlkifOp.READ, 0, number, 0, 1, (BlkifSegment(ref, 0, 7),))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@dataclasses.dataclass
class Cost:
    """What a process has used up: how often its threads woke up, and nanoseconds of a CPU."""

    wakeups: int
    cpu_ns: int

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wakeups - other.wakeups, self.cpu_ns - other.cpu_ns)


def used(pid: int) -> Cost:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    wakeups = sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return Cost(wakeups, time.clock_gettime_ns(~pid << 3 | 2))  # a process's clock (clock_getcpuclockid)


def cost_of_events(pid: int, frontend: Any) -> Cost:
    """What a process needs for the events of one guest, each of which finds it asleep if that is at all so."""
    before = used(pid)
    for _ in range(NR_EVENTS):
        frontend.ring.channel.notify()
        time.sleep(0.0002)
    return used(pid) - before


@ENGINES
def test_cve_2010_4247_a_stopped_ring_costs_nothing(world: Any, raw_frontend: Any, engine: str) -> None:
    backend = world.backend("--engine", engine, "--poll-us", "0")
    healthy, stopped = (raw_frontend(world.attach()) for _ in range(2))
    for frontend in (healthy, stopped):
        frontend.connect()
        frontend.await_backend(S.CONNECTED)
    before = threads(backend.pid)
    stopped.ring._view.cast("I")[0] = 33
    stopped.ring.channel.notify()
    world.eventually(lambda: threads(backend.pid) < before, "the ring's thread has ended")
    costs_nothing(backend.pid, healthy, stopped)
    assert stopped.ring._view.cast("I")[2] == 0, "nothing is answered"
    ref, _page = healthy.page()
    assert healthy.ask(read_request(ref, 1))[0].status == BlkifStatus.OKAY


def costs_nothing(pid: int, healthy: Any, stopped: Any) -> None:
    """The events of a guest whose ring is stopped, beside those of another."""
    costs = cost_of_events(pid, healthy), cost_of_events(pid, stopped)
    assert costs[0].wakeups > NR_EVENTS / 20, "the measurement sees wake-ups, be the machine as slow as it may"
    assert costs[1].wakeups < costs[0].wakeups / 4, costs
    assert costs[1].cpu_ns < costs[0].cpu_ns / 2, costs


@ENGINES
@pytest.mark.parametrize("indexes", [(0, 1, 32), (0, 1, 32, 65, 1 << 31, (1 << 32) - 1)], ids=["back", "anywhere"])
def test_cve_2010_4247_an_index_that_changes_all_the_time(
    world: Any, raw_frontend: Any, engine: str, indexes: tuple[int, ...]
) -> None:
    """What it once said is there is answered, each once, until it says what cannot be; going back is that, too."""
    backend = world.backend("--engine", engine, "--poll-us", "0")
    healthy, liar = (raw_frontend(world.attach()) for _ in range(2))
    for frontend in (healthy, liar):
        frontend.connect()
        frontend.await_backend(S.CONNECTED)
    refs = {frontend: frontend.page()[0] for frontend in (healthy, liar)}
    for number in range(32):
        liar.ring.sring.put(liar.abi.pack_request(read_request(refs[liar], number)))
    header, before, stop = liar.ring._view.cast("I"), threads(backend.pid), threading.Event()

    def flip() -> None:
        dice = random.Random(4247)
        while not stop.is_set():
            header[0] = dice.choice(indexes)

    def has_stopped() -> bool:
        liar.ring.channel.notify()
        assert healthy.ask(read_request(refs[healthy], 1))[0].status == BlkifStatus.OKAY
        return threads(backend.pid) < before

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        world.eventually(has_stopped, "the ring's thread has ended")
    finally:
        stop.set()
        thread.join()
    costs_nothing(backend.pid, healthy, liar)
    liar.ring.sring.push()
    answers = [liar.abi.parse_response(slot) for slot in iter(liar.ring.sring.consume, None)]
    assert len(answers) == header[2] <= 32
    assert [answer.id for answer in answers] == list(range(len(answers)))
    liar.switch(S.CLOSED)
    liar.await_backend(S.CLOSED)
    assert world.pins(liar.domid) == 0


@ENGINES
@pytest.mark.parametrize("persistent", ["0", "1"])
def test_xsa_350_connecting_and_closing_without_waiting(
    world: Any, raw_frontend: Callable[..., Any], image: Path, engine: str, persistent: str
) -> None:
    """With requests in flight that a file serves; each state finds the backend wherever it is."""
    seed = 350
    dice = random.Random(seed)
    backend = world.backend("--engine", engine)
    domid, neighbour = world.attach(str(image)), world.disk(world.attach())
    idle = threads(backend.pid)
    frontend = raw_frontend(domid)
    refs = [frontend.page()[0] for _ in range(8)]
    frontend.connect(feature_persistent=persistent)
    for number in range(200):
        ring = frontend.ring.sring
        while ring.consume() is not None:
            pass
        for _ in range(ring.free_slots):
            ring.put(frontend.abi.pack_request(read_request(dice.choice(refs), number)))
        if ring.push():
            frontend.ring.channel.notify()
        time.sleep(dice.random() * 0.004)
        frontend.switch(dice.choice([S.CONNECTED, S.CLOSED, S.INITIALISING, S.INITIALISED, S.CLOSING]))
        if number % 50 == 0:
            assert neighbour.pread(512, 0) == bytes(512), f"seed {seed}"
    frontend.switch(S.CLOSED)
    world.attach()  # the backend looks at one device after the other, so it has seen Closed by now
    assert world.backend_state(domid) is S.CLOSED, f"seed {seed}"
    assert (world.pins(domid), threads(backend.pid)) == (0, idle), f"seed {seed}"
    frontend.switch(S.INITIALISING)
    frontend.await_backend(S.INITWAIT)
    frontend.ring.close()
    frontend.ring = Ring(frontend.platform, Domid(0))
    frontend.keys = frontend.ring.keys()
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    assert frontend.ask(read_request(refs[0], 1))[0].status == BlkifStatus.OKAY


def granted_frames(platform: Any) -> set[int]:
    """The frames of a domain that anybody may map."""
    entries = bytes(platform.memory.grant_frames())
    found = (entries[at : at + 8] for at in range(0, len(entries), 8))
    return {int.from_bytes(entry[4:], "little") for entry in found if entry[0] & 3}


@ENGINES
@pytest.mark.parametrize("persistent", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("nr_pages", [11, 20], ids=["direct", "indirect"])
def test_xsa_403_a_backend_that_is_not_trusted_sees_the_pool(
    world: Any, engine: str, persistent: bool, nr_pages: int
) -> None:
    """By the toolstack's word: while a request is in flight, and after it, no page of its buffer is granted."""
    backend = world.backend()
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])
    toolstack.attach(world.store, domid, XVDA, "memory:1M", options=DiskOptions(trusted=False))
    frontend = world.frontend(domid, engine=engine, feature_persistent=persistent)
    platform = frontend._platform
    before = granted_frames(platform)
    buffer = frontend.allocate(nr_pages * PAGE_SIZE)
    first, count = platform.memory.locate(buffer)[0], nr_pages
    own = set(range(first, first + count))
    for op in (BlkifOp.WRITE, BlkifOp.READ):
        backend.signal(signal.SIGSTOP)
        bio = frontend.submit(op, 0, buffer)
        assert frontend.poll(0) == []
        during = granted_frames(platform)
        assert len(during - before) >= nr_pages
        assert not during & own
        backend.signal(signal.SIGCONT)
        done = []
        while not done:
            done = frontend.poll()
        assert done == [bio]
        assert bio.error is None
        after = granted_frames(platform)
        assert not after & own
        assert persistent or after == before, "only the ring is granted between requests"
    frontend.free(buffer)
    frontend.close()
    assert granted_frames(platform) == before - during, "not even the ring"
