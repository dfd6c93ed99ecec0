"""Frontends that write garbage: each gets the status or the refusal that it deserves, and the backend goes on."""

import os
import random
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.blkif import X86_32, X86_64, BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.xenbus import XenbusState as S

OKAY, ERROR, EOPNOTSUPP = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
READ, WRITE, FLUSH = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE

Raw = Callable[..., Any]


def request(operation: int, *segments: BlkifSegment, sector: int = 0, nr_segments: int | None = None) -> BlkifRequest:
    return BlkifRequest(operation, 0, 1, sector, len(segments) if nr_segments is None else nr_segments, segments)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"ring_ref": None}, "must write `ring-ref`"),
        ({"ring_ref": "elephant"}, "`ring-ref` is a number"),
        ({"ring_ref": "7"}, "cannot be mapped: it is not granted"),
        ({"ring_ref": "32767"}, "cannot be mapped: it is not granted"),
        ({"ring_ref": "32768"}, "outside the grant table"),
        ({"ring_ref": "4294967295"}, "outside the grant table"),
        ({"event_channel": None}, "must write `event-channel`"),
        ({"event_channel": "-1"}, "`event-channel` is a number"),
        ({"event_channel": "4000"}, "no event channel 4000"),
        ({"event_channel": "0"}, "no event channel 0"),
        ({"protocol": "vax-abi"}, "`protocol` is one of"),
        ({"ring_page_order": "9"}, "requested ring page order 9: `ring-page-order` is at most 4"),
        ({"ring_page_order": "1", "ring_ref0": "9", "ring_ref1": "10"}, "cannot be mapped"),
        ({"multi_queue_num_queues": "1000000"}, "guest requested 1000000 queues"),
    ],
)
def test_garbage_keys_are_refused_with_a_sentence(
    world: Any, raw_frontend: Raw, keys: dict[str, str], sentence: str
) -> None:
    world.backend()
    neighbour = world.disk(world.attach())
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.connect(**keys)
    frontend.await_backend(S.CLOSING)
    assert sentence in world.error_of(domid)
    assert world.pins(domid) == 0
    neighbour.pwrite(b"x" * 512, 0)
    frontend.switch(S.CLOSED)
    frontend.await_backend(S.CLOSED)
    frontend.switch(S.INITIALISING)
    frontend.await_backend(S.INITWAIT)
    for key in keys:
        world.store.rm(f"{frontend.path}/{key.replace('_', '-')}")
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    ref, _page = frontend.page()
    assert frontend.ask(request(READ, BlkifSegment(ref, 0, 7)))[0].status == OKAY


@pytest.mark.parametrize("state", ["2", "7", "8"])
def test_states_that_no_frontend_may_be_in(world: Any, raw_frontend: Raw, state: str) -> None:
    world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.switch(state)
    frontend.await_backend(S.CLOSING)
    assert f"saw state {state} at frontend" in world.error_of(domid)


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=["x86_64", "x86_32"])
@pytest.mark.parametrize(
    "options", [(), ("--no-feature-persistent",), ("--grant-copy",)], ids=["persistent", "map", "copy"]
)
def test_bad_requests_get_their_status_and_leave_nothing(world: Any, raw_frontend: Raw, abi: Any, options: Any) -> None:
    world.backend(*options)
    domid = world.attach("memory:64K")
    frontend = raw_frontend(domid, abi)
    frontend.connect(feature_persistent="1")
    frontend.await_backend(S.CONNECTED)
    ref, page = frontend.page()
    others = [frontend.page()[0] for _ in range(10)]
    readonly, _ = frontend.page(readonly=True)
    foreign, _ = frontend.page(domid=77)
    whole = BlkifSegment(ref, 0, 7)
    cases = [
        (request(READ, whole), OKAY),
        (request(READ, BlkifSegment(ref, 1, 0)), ERROR),
        (request(READ, BlkifSegment(ref, 0, 8)), ERROR),
        (request(WRITE, BlkifSegment(ref, 255, 255)), ERROR),
        (request(READ, whole, sector=120), OKAY),
        (request(READ, whole, sector=121), ERROR),
        (request(WRITE, whole, sector=(1 << 64) - 4), ERROR),
        (request(4, whole), EOPNOTSUPP),
        (request(99), EOPNOTSUPP),
        (request(READ), ERROR),
        (request(FLUSH), OKAY),
        (request(READ, whole, nr_segments=12), ERROR),
        (request(READ, BlkifSegment(5, 0, 0)), ERROR),
        (request(READ, BlkifSegment(0xFFFFFFFF, 0, 0)), ERROR),
        (request(READ, BlkifSegment(foreign, 0, 0)), ERROR),
        (request(READ, BlkifSegment(readonly, 0, 0)), ERROR),
        (request(READ, BlkifSegment(ref, 0, 0), BlkifSegment(ref, 1, 1)), OKAY),
        (request(WRITE, BlkifSegment(frontend.ring.refs[0], 7, 7)), OKAY),
    ]
    for bad in range(11):
        refs = [*others, ref]
        refs[bad] = 20000
        cases.append((request(WRITE, *(BlkifSegment(r, 0, 0) for r in refs)), ERROR))
    for asked, status in cases:
        (answer,) = frontend.ask(asked)
        assert (answer.id, answer.operation, answer.status) == (1, asked.operation, status), asked
        counts = world.counts(domid)
        assert counts["map_pages"] == counts["unmap_pages"] + counts["persistent_current"]
        assert counts["persistent_in_use"] == 0
    if options == ("--no-feature-persistent",):
        assert frontend.platform.grant_table.end_access(ref), "nothing is mapped after a response"
    page.view[:4] = b"work"
    assert frontend.ask(request(WRITE, whole), request(READ, BlkifSegment(others[0], 0, 7)))[1].status == OKAY


def test_write_to_a_page_granted_for_reading_works_without_persistence(world: Any, raw_frontend: Raw) -> None:
    world.backend("--no-feature-persistent")
    frontend = raw_frontend(world.attach())
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    ref, page = frontend.page(readonly=True)
    page.view[:] = b"r" * 4096
    assert frontend.ask(request(WRITE, BlkifSegment(ref, 0, 7)))[0].status == OKAY
    assert frontend.ask(request(READ, BlkifSegment(ref, 0, 7)))[0].status == ERROR


def test_an_old_peer_without_the_persistent_key_is_served(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    assert "feature-persistent" not in frontend.keys
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    ref, _ = frontend.page()
    for _ in range(5):
        assert frontend.ask(request(READ, BlkifSegment(ref, 0, 7)))[0].status == OKAY
        assert frontend.platform.grant_table.end_access(ref), "unmapped before the response"
        assert frontend.platform.grant_table.grant(0, [200]) == [ref], "what was freed last is used first"
    counts = world.counts(domid)
    assert (counts["map_pages"], counts["unmap_pages"], counts["persistent_current"]) == (5, 5, 0)


def test_a_frontend_that_jumps_to_connected_is_served(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    frontend = raw_frontend(world.attach())
    frontend.connect(S.CONNECTED)
    frontend.await_backend(S.CONNECTED)
    assert frontend.ask(request(FLUSH))[0].status == OKAY


def test_a_missing_protocol_means_x86_32(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    frontend = raw_frontend(world.attach(), X86_32)
    frontend.connect(protocol=None)
    frontend.await_backend(S.CONNECTED)
    assert frontend.ask(request(FLUSH))[0].status == OKAY


@pytest.mark.parametrize("order", [0, 1, 2, 4])
@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=["x86_64", "x86_32"])
def test_rings_of_many_pages_filled_to_the_brim(world: Any, raw_frontend: Raw, abi: Any, order: int) -> None:
    world.backend()
    frontend = raw_frontend(world.attach(), abi, order)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    ref, _ = frontend.page()
    asked = [BlkifRequest(READ, 0, n << 40, 0, 1, (BlkifSegment(ref, 0, 0),)) for n in range(32 << order)]
    for _ in range(2):
        answers = frontend.ask(*asked)
        assert {answer.id for answer in answers} == {r.id for r in asked}
        assert {answer.status for answer in answers} == {OKAY}


def test_an_impossible_index_stops_that_ring_only(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    neighbour = world.disk(world.attach())
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    frontend.ring._view.cast("I")[0] = 33
    frontend.ring.channel.notify()
    neighbour.pwrite(b"y" * 512, 0)
    assert frontend.ring._view.cast("I")[2] == 0, "nothing is answered"
    frontend.switch(S.CLOSED)
    frontend.await_backend(S.CLOSED)
    assert world.pins(domid) == 0


def test_storms_of_states_and_events(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    neighbour = world.disk(world.attach())
    frontend = raw_frontend(world.attach())
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    for n in range(2000):
        frontend.switch(str(n % 5 if n % 7 else "garbage"))
        frontend.ring.channel.notify()
    frontend.switch(S.CLOSED)
    frontend.await_backend(S.CLOSED)
    assert neighbour.pread(512, 0) == bytes(512)


def test_slots_and_pages_that_change_all_the_time(world: Any, raw_frontend: Raw) -> None:
    """XSA-155: what was checked must be what is used. Each id is answered once, with a legal status."""
    world.backend("--max-persistent-grants", "4")
    domid = world.attach("memory:64K")
    frontend = raw_frontend(domid)
    frontend.connect(feature_persistent="1")
    frontend.await_backend(S.CONNECTED)
    refs = [frontend.page()[0] for _ in range(16)]
    rng, stop, view = random.Random(5), threading.Event(), frontend.ring._view

    def scribble() -> None:
        noise = random.Random(6)
        while not stop.is_set():
            slot = 64 + noise.randrange(32) * 112
            # Byte 25, not 24: no reference may come to name the ring's own page, which a read would then overwrite.
            # Byte 13 is of the request's id; where the response is, it is padding, and 0 and 1 are of its id.
            view[slot + noise.choice([0, 1, 13, 16, 25, 28, 29])] = noise.randrange(256)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for burst in range(200):
            asked = [
                BlkifRequest(
                    READ,
                    0,
                    (burst << 5 | n) << 16,
                    rng.randrange(200),
                    2,
                    tuple(BlkifSegment(rng.choice(refs), 0, 7) for _ in "ab"),
                )
                for n in range(32)
            ]
            answers = frontend.ask(*asked)
            assert sorted(a.id & 0xFFFF_00FF_FFFF_0000 for a in answers) == [r.id for r in asked]
            assert {a.status for a in answers} <= {OKAY, ERROR, EOPNOTSUPP}
    finally:
        stop.set()
        thread.join()
    assert frontend.ask(request(FLUSH))[0].status == OKAY
    frontend.switch(S.CLOSED)
    frontend.await_backend(S.CLOSED)
    counts = world.counts(domid)
    assert counts["map_pages"] == counts["unmap_pages"]
    assert world.pins(domid) == 0


def test_a_frontend_directory_that_vanishes(world: Any, raw_frontend: Raw) -> None:
    world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    world.store.rm(frontend.path)
    world.eventually(lambda: not world.store.exists(f"/local/domain/0/backend/vbd/{domid}"), "the device is removed")
    assert world.pins(domid) == 0


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_an_image_that_shrinks_under_the_backend(world: Any, folder: str) -> None:
    """One in memory is mapped, and its end is a SIGBUS."""
    world.backend()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="xenblk-") as image:
        os.truncate(image.name, 4 << 20)
        disk = world.disk(world.attach(image.name))
        disk.pwrite(b"x" * 512, 2 << 20)
        assert disk.pread(512, 2 << 20) == b"x" * 512
        os.truncate(image.name, 512)
        with pytest.raises(OSError, match="status -1"):
            disk.pread(512, 2 << 20)
        os.truncate(image.name, 4 << 20)
        assert disk.pread(512, 2 << 20) == bytes(512)
