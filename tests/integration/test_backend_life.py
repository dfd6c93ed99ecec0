"""The backend's side of xenbus: what it publishes and when, and every way in which a frontend may come and go."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk import toolstack
from xenblk.abi import DOM0, Domid
from xenblk.blkback.device_nodes import DeviceNodes
from xenblk.blkfront.connection import Ring
from xenblk.blkif import X86_64, BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.toolstack import DiskOptions, backend_path, frontend_path
from xenblk.xenbus import XenbusState
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

XVDA = 51712
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])


def read_request(frontend: Any, number: int, sector: int = 0) -> BlkifRequest:
    ref, _page = frontend.page()
    return BlkifRequest(BlkifOp.READ, 0, number, sector, 1, (BlkifSegment(ref, 0, 0),))


def nodes_of(world: Any, domid: Domid) -> dict[str, str]:
    back = backend_path(DOM0, domid, XVDA)
    return {key: world.store.read(f"{back}/{key}", "") for key in world.store.directory(back)}


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def start_over(frontend: Any) -> None:
    """A frontend that was connected, without the toolstack's help: xenbus_reset_frontend's order."""
    for own, backend in (
        (XenbusState.CLOSING, XenbusState.CLOSING),
        (XenbusState.CLOSED, XenbusState.CLOSED),
        (XenbusState.INITIALISING, XenbusState.INITWAIT),
    ):
        frontend.switch(own)
        frontend.await_backend(backend)


def test_everything_is_published_before_a_frontend_says_anything(world: Any) -> None:
    world.backend("--max-queues", "3", "--max-ring-page-order", "2", "--max-indirect-segments", "64")
    domid = world.attach()
    world.eventually(lambda: world.backend_state(domid) is XenbusState.INITWAIT, "InitWait")
    nodes = nodes_of(world, domid)
    assert {key: nodes[key] for key in nodes if key.startswith(("feature-", "max-", "multi-"))} == {
        "feature-barrier": "1",
        "feature-flush-cache": "1",
        "feature-max-indirect-segments": "64",
        "feature-persistent": "1",
        "max-ring-page-order": "2",
        "max-ring-pages": "4",
        "multi-queue-max-queues": "3",
        **{key: "1" for key in nodes if key == "feature-discard"},
    }
    assert (nodes["sectors"], nodes["sector-size"], nodes["info"]) == ("8192", "512", "0")


def test_no_discard_node_where_the_toolstack_forbids_it(world: Any) -> None:
    world.backend()
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])
    toolstack.attach(world.store, domid, XVDA, "memory:1M", options=DiskOptions(discard_enable=False))
    assert not [key for key in nodes_of(world, domid) if "discard" in key and key != "discard-enable"]


@pytest.mark.parametrize(
    ("options", "mode", "info"),
    [
        (DiskOptions(), "r", "4"),
        (DiskOptions(device_type="cdrom"), "r", "5"),
        (DiskOptions(removable=True), "w", "2"),
        (DiskOptions(device_type="cdrom", removable=True), "w", "3"),
    ],
    ids=str,
)
def test_what_kind_of_disk_it_is(world: Any, options: DiskOptions, mode: str, info: str) -> None:
    world.backend()
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])
    toolstack.attach(world.store, domid, XVDA, "memory:1M", mode, options=options)
    assert nodes_of(world, domid)["info"] == info


def test_sectors_are_512_bytes_whatever_the_disks_blocks_are(world: Any) -> None:
    world.backend()
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])
    toolstack.attach(world.store, domid, XVDA, "memory:1M", options=DiskOptions(sector_size=4096))
    nodes = nodes_of(world, domid)
    assert [nodes[key] for key in ("sectors", "sector-size", "physical-sector-size")] == ["2048", "4096", "4096"]


def attach_by_hand(world: Any, **nodes: str | None) -> Domid:
    """A toolstack's nodes with changes, None for one that is missing; nobody waits for the backend."""
    domid = Domid(world.control.call("create", domid=None)[0]["domid"])

    def make(transaction: XenstoreTransaction) -> None:
        toolstack._make_nodes(transaction, domid, XVDA, "memory:1M", "w", DOM0, DiskOptions())
        for key, value in nodes.items():
            path = f"{backend_path(DOM0, domid, XVDA)}/{key.replace('_', '-')}"
            transaction.rm(path) if value is None else transaction.write(path, value)

    world.store.transact(make)
    return domid


@pytest.mark.parametrize(
    ("nodes", "error"),
    [
        ({"mode": None}, f"{errno.ENOENT} reading mode"),
        ({"sector_size": "1000"}, f"{errno.EINVAL} `sector-size` is 512 or 4096, not '1000'"),
        ({"params": "/no/such/image"}, f"{errno.ENODEV} there is no disk image"),
    ],
)
def test_a_device_that_cannot_be_served_says_why(world: Any, nodes: dict[str, str | None], error: str) -> None:
    world.backend()
    domid = attach_by_hand(world, **nodes)
    world.eventually(lambda: world.backend_state(domid) is XenbusState.CLOSING, "Closing")
    assert world.error_of(domid).startswith(error)
    assert world.store.read(f"{backend_path(DOM0, domid, XVDA)}/hotplug-status") == "error"


@pytest.mark.parametrize(("mode", "read_only"), [("r", True), ("w", False), ("w!", False), ("R", True), ("rw", False)])
def test_a_disk_may_be_written_if_its_mode_has_a_w(world: Any, mode: str, read_only: bool) -> None:
    world.backend()
    domid = attach_by_hand(world, mode=mode)
    world.eventually(lambda: world.backend_state(domid) is XenbusState.INITWAIT, "InitWait")
    assert nodes_of(world, domid)["info"] == ("4" if read_only else "0")


@pytest.mark.parametrize("key", ["params", "physical-device-path"])
@pytest.mark.parametrize("state", [XenbusState.INITIALISED, XenbusState.CONNECTED])
def test_a_disk_that_is_ready_last(
    world: Any, raw_frontend: Callable[..., Any], image: Path, state: XenbusState, key: str
) -> None:
    world.backend()
    domid = attach_by_hand(world, params=None)
    world.eventually(lambda: world.backend_state(domid) is XenbusState.INITWAIT, "InitWait without a disk")
    frontend = raw_frontend(domid)
    frontend.connect(state)
    world.store.write(f"{backend_path(DOM0, domid, XVDA)}/{key}", str(image))
    frontend.await_backend(XenbusState.CONNECTED)
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    world.store.write(f"{backend_path(DOM0, domid, XVDA)}/{key}", "memory:2M")
    assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY


@pytest.mark.parametrize(
    "dialect",
    [
        {"ring_page_order": "1"},
        {"ring_page_order": None, "num_ring_pages": "2"},
        {"ring_page_order": "1", "num_ring_pages": "2"},
    ],
    ids=str,
)
def test_a_ring_of_two_pages_in_every_dialect(
    world: Any, raw_frontend: Callable[..., Any], dialect: dict[str, str | None]
) -> None:
    world.backend()
    frontend = raw_frontend(world.attach(), page_order=1)
    frontend.connect(XenbusState.CONNECTED, **dialect)
    frontend.await_backend(XenbusState.CONNECTED)
    requests = [read_request(frontend, n) for n in range(64)]
    assert {answer.id for answer in frontend.ask(*requests)} == set(range(64))


class Queues:
    """A frontend with several queues, by hand: rings of a RawFrontend's platform."""

    def __init__(self, frontend: Any, number: int, page_order: int) -> None:
        self.frontend = frontend
        self.rings = [Ring(frontend.platform, DOM0, X86_64, page_order) for _ in range(number)]

    def keys(self) -> dict[str, str]:
        keys = {"protocol": X86_64.protocol, "multi-queue-num-queues": str(len(self.rings))}
        for n, ring in enumerate(self.rings):
            for key, value in ring.keys().items():
                keys[key if key in ("protocol", "ring-page-order") else f"queue-{n}/{key}"] = value
        return keys


@ENGINES
@pytest.mark.parametrize("page_order", [0, 1])
def test_queues_are_rings_of_their_own(
    world: Any, raw_frontend: Callable[..., Any], engine: str, page_order: int
) -> None:
    backend = world.backend("--engine", engine, "--max-queues", "4")
    domid = world.attach()
    before = threads(backend.pid)
    frontend = raw_frontend(domid)
    queues = Queues(frontend, 3, page_order)
    frontend.keys = queues.keys()
    frontend.connect(feature_persistent="1")
    frontend.await_backend(XenbusState.CONNECTED)
    assert threads(backend.pid) == before + 3 * (2 if engine == "native" else 1)
    for n, ring in enumerate(queues.rings):
        frontend.ring = ring
        answers = frontend.ask(*(read_request(frontend, 16 * n + i) for i in range(n + 1)))
        assert {answer.id for answer in answers} == {16 * n + i for i in range(n + 1)}
    for n in range(3):
        counts = world.counts(domid, "back", queue=n)
        assert (counts["rd_req"], counts["persistent_current"]) == (n + 1, n + 1)
    start_over(frontend)
    assert world.pins(domid) == 0
    assert threads(backend.pid) == before
    assert not any(ring.channel.remote_bound for ring in queues.rings)


@ENGINES
def test_a_second_queue_that_leads_nowhere_leaves_nothing_of_the_first(
    world: Any, raw_frontend: Callable[..., Any], engine: str
) -> None:
    backend = world.backend("--engine", engine, "--max-queues", "2")
    domid = world.attach()
    before = threads(backend.pid)
    frontend = raw_frontend(domid)
    queues = Queues(frontend, 2, 0)
    frontend.keys = {**queues.keys(), "queue-1/ring-ref": "4000"}
    frontend.connect()
    frontend.await_backend(XenbusState.CLOSING)
    assert (world.pins(domid), threads(backend.pid)) == (0, before)
    assert not any(ring.channel.remote_bound for ring in queues.rings)


def test_a_hundred_connections_without_the_toolstack(world: Any, raw_frontend: Callable[..., Any]) -> None:
    backend = world.backend("--max-queues", "2")
    domid = world.attach()
    frontend = raw_frontend(domid)
    before = threads(backend.pid)
    descriptors = len(os.listdir(f"/proc/{backend.pid}/fd"))
    for cycle in range(100):
        frontend.ring.close()
        frontend.ring = Ring(frontend.platform, DOM0)
        frontend.keys = frontend.ring.keys()
        frontend.connect(XenbusState.CONNECTED if cycle % 2 else XenbusState.INITIALISED)
        frontend.await_backend(XenbusState.CONNECTED)
        assert frontend.ask(read_request(frontend, cycle))[0].status == BlkifStatus.OKAY
        start_over(frontend)
    assert world.pins(domid) == 0
    assert threads(backend.pid) == before
    assert len(os.listdir(f"/proc/{backend.pid}/fd")) == descriptors
    assert not [d for d in world.control.call("status")[0]["domains"] if d["domid"] == 0 and d["ports"]]


def test_a_forced_close(world: Any, raw_frontend: Callable[..., Any]) -> None:
    backend = world.backend()
    domid = world.attach()
    before = threads(backend.pid)
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.ask(read_request(frontend, 1))

    def force(transaction: XenstoreTransaction) -> None:
        transaction.rm(frontend_path(domid, XVDA))
        transaction.write(f"{backend_path(DOM0, domid, XVDA)}/online", "0")
        transaction.write(f"{backend_path(DOM0, domid, XVDA)}/state", str(int(XenbusState.CLOSING)))

    world.store.transact(force)
    world.eventually(lambda: not world.store.exists(backend_path(DOM0, domid, XVDA)), "the device is gone")
    assert (world.pins(domid), threads(backend.pid)) == (0, before)


@ENGINES
def test_a_disk_that_changes_its_size_under_a_frontend(
    world: Any, raw_frontend: Callable[..., Any], image: Path, engine: str
) -> None:
    world.backend("--engine", engine)
    domid = world.attach(str(image))
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    state, sectors = (f"{backend_path(DOM0, domid, XVDA)}/{key}" for key in ("state", "sectors"))
    world.store.watch(state, "state")
    assert world.store.next_event(10) is not None
    for size in (6 << 20, 1 << 20):
        os.truncate(image, size + 100)
        world.eventually(lambda n=size: world.store.read(sectors) == str(n // 512), "the new size is published")
        assert world.store.next_event(10) is not None  # the unchanged state was written with it
        assert world.store.read(state) == "4"
        last = size // 512 - 1
        within, beyond = frontend.ask(read_request(frontend, 1, last), read_request(frontend, 2, last + 1))
        assert (within.status, beyond.status) == (BlkifStatus.OKAY, BlkifStatus.ERROR)


def test_xsa_349_state_storm(world: Any, raw_frontend: Callable[..., Any]) -> None:
    backend = world.backend()
    stormy, calm = world.attach(), world.attach()
    frontend, neighbour = raw_frontend(stormy), raw_frontend(calm)
    for peer in (frontend, neighbour):
        peer.connect()
        peer.await_backend(XenbusState.CONNECTED)
    before = memory_kib(backend.pid)
    for n in range(3000):
        frontend.switch(XenbusState.CONNECTED if n % 2 else XenbusState.INITIALISED)
    assert neighbour.ask(read_request(neighbour, 1))[0].status == BlkifStatus.OKAY
    assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY
    assert memory_kib(backend.pid) - before < 4096


def memory_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_xsa_349_one_event_waits(world: Any) -> None:
    with Xenstore(str(world.directory.xenstore(DOM0))) as store:
        store.watch("/single", "single", one_pending=True)
        store.watch("/all", "all")
        for n in range(100):
            world.store.write("/single/below", str(n))
            world.store.write("/all", str(n))
        seen = []
        while (event := store.next_event(0.2)) is not None:
            seen.append(event.token)
        assert seen.count("single") == 1
        assert seen.count("all") > 100
        world.store.write("/single", "again")
        assert store.next_event(10) is not None


def test_states_that_jump_in_one_transaction(world: Any, raw_frontend: Callable[..., Any]) -> None:
    world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    for key, value in frontend.keys.items():
        world.store.write(f"{frontend.path}/{key}", value)

    def jump(transaction: XenstoreTransaction) -> None:
        for state in (1, 6, 3, 4):
            transaction.write(f"{frontend.path}/state", str(state))

    world.store.transact(jump)
    frontend.await_backend(XenbusState.CONNECTED)
    world.store.transact(jump)
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    start_over(frontend)
    assert world.pins(domid) == 0


@pytest.mark.parametrize("garbage", ["four", "4x", "-1", "99", "0x4", "4 "])
def test_a_state_that_is_no_number_disconnects(world: Any, raw_frontend: Callable[..., Any], garbage: str) -> None:
    world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.switch(garbage)
    frontend.await_backend(XenbusState.CLOSED)
    assert world.pins(domid) == 0
    frontend.switch(XenbusState.INITIALISING)
    frontend.await_backend(XenbusState.INITWAIT)


def test_regression_nodes_of_a_removed_device_do_not_come_back(world: Any) -> None:
    """A ring's thread may have something to say at the very moment."""
    domid = attach_by_hand(world)
    path = backend_path(DOM0, domid, XVDA)
    nodes = DeviceNodes(world.store, path)
    nodes.write({"feature-barrier": "1"})
    assert nodes.read("feature-barrier") == "1"
    world.store.rm(path)
    nodes.write({"feature-barrier": "0"})
    nodes.announce({"sectors": "1"})
    nodes.switch_state(XenbusState.CLOSED)
    assert not world.store.exists(path)


def test_regression_a_new_device_is_not_taken_for_the_one_in_whose_place_it_is(world: Any) -> None:
    """The old one's last words come late: they would close the new one, or remove it."""
    domid = attach_by_hand(world)
    path = backend_path(DOM0, domid, XVDA)
    old = DeviceNodes(world.store, path)
    old.switch_state(XenbusState.INITWAIT)
    old.switch_state(XenbusState.CLOSING)
    world.store.write(f"{path}/state", str(int(XenbusState.INITIALISING)))
    old.write({"feature-barrier": "0"})
    old.switch_state(XenbusState.CLOSED)
    old.remove()
    assert old.shown_state is XenbusState.INITIALISING
    assert old.read("feature-barrier") == ""
    new = DeviceNodes(world.store, path)
    new.switch_state(XenbusState.INITWAIT)
    assert new.shown_state is XenbusState.INITWAIT
    new.remove()
    assert not world.store.exists(path)
