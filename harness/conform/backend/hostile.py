"""Cases: guests that mean harm, named after the advisories that such guests led to."""

import dataclasses
import os
import random
import struct
import threading
import time
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE, GrantRef
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifSegment, BlkifStatus, DiscardRequest, IndirectRequest
from xenblk.harness.conform.backend.lab import BACKEND, QUIET_S, Guest, Lab
from xenblk.harness.conform.case import expect
from xenblk.harness.wire.deadline import wait_for
from xenblk.xenbus import XenbusState as S

READ, WRITE = BlkifOp.READ, BlkifOp.WRITE
_LEGAL = {int(status) for status in BlkifStatus}

_UNCHANGED = 0xFFFF_00FF_FFFF_0000
"""What is left of an id in a slot that `_mutate` writes to.

It changes byte 5 of a request's id, which the backend may read before or after. Bytes 0 and 1 of a slot, a request's
operation and count, are the lowest of the id once the response stands there.
"""


def _mutate(guest: Guest, stop: threading.Event) -> None:
    """Change slots until `stop`, but nothing that would be a response's operation or status."""
    ring, abi, dice = guest.ring, guest.ring.abi, random.Random(155)
    byte_of_id = (8 if abi is X86_64 else 4) + 5
    while not stop.is_set():
        slot = ring.slot_offset(dice.randrange(ring.nr_ents))
        at = dice.choice((0, 1, byte_of_id, abi.entry_size - 80 + dice.randrange(64)))
        ring.write(slot + at, dice.randbytes(1))


def _mutated(abi: Abi) -> Callable[[Lab], None]:
    """Slots change under the backend's eyes: whatever it read, it answers each request once."""

    def body(lab: Lab) -> None:
        guest = lab.connected(abi)
        pages = [guest.frontend.page() for _ in range(8)]
        stop = threading.Event()
        thread = threading.Thread(target=_mutate, args=(guest, stop))
        thread.start()
        try:
            for _ in range(30):
                requests = [guest.request(READ, page.segment(0, 0), sector=1) for page in pages]
                asked = [dataclasses.replace(request, id=request.id << 16) for request in requests]
                answers = guest.ask(*asked)
                ids = sorted(answer.id & _UNCHANGED for answer in answers)
                expect(ids == [request.id for request in asked], "each id must be answered once")
                expect({answer.status for answer in answers} <= _LEGAL, "a status is none of blkif's")
        finally:
            stop.set()
            thread.join()
        guest.works()

    return body


for _number, _abi in enumerate((X86_64, X86_32), 1):
    BACKEND.case(
        f"B-XSA155-{_number:03}", f"{_abi.protocol}: slots that change while they are read do no harm", "XSA-155"
    )(_mutated(_abi))


@BACKEND.case("B-XSA155-003", "segments in an indirect page that change while they are read do no harm", "XSA-155")
def _mutated_indirect(lab: Lab) -> None:
    guest = lab.connected()
    guest.require("feature-max-indirect-segments", 32)
    page = guest.frontend.page()
    table = guest.frontend.page(struct.pack("<IBBxx", page.ref, 0, 0) * 32)
    stop = threading.Event()

    def mutate() -> None:
        dice = random.Random(155)
        while not stop.is_set():
            at = dice.randrange(32) * 8 + dice.choice((4, 5))
            table.view[at] = dice.choice((0, 7, 8, 255))

    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        for _ in range(100):
            refs = (table.ref, *[GrantRef(0)] * 7)
            request = IndirectRequest(READ, guest.handle, guest.new_id(), 0, 32, refs)
            (answer,) = guest.ask(request)
            expect(answer.id == request.id, f"request {request.id:#x} was answered with id {answer.id:#x}")
            expect(answer.status in _LEGAL, f"the status is {answer.status}")
    finally:
        stop.set()
        thread.join()
    guest.works()


def _no_leak(abi: Abi) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected(abi)
        guest.ring.fill(0xAA)
        page = guest.frontend.page()
        requests = [guest.request(op, page.segment()) for op in (READ, WRITE, 99)] + [guest.request(READ)]
        sent = [abi.pack_request(request) for request in requests]
        guest.put(*sent)
        guest.ring.publish()
        size = 16 if abi is X86_64 else 12
        for request, slot in zip(sent, guest.ring.take_slots(len(sent)), strict=True):
            expect(not any((slot[9], *slot[12:size])), f"padding of a response is {slot[:size].hex()}")
            rest = slot[size:]
            expect(
                rest in (bytes(len(rest)), request[size:]), "a response leaves neither zeros nor its request behind it"
            )

    return body


for _number, _abi in enumerate((X86_64, X86_32), 1):
    BACKEND.case(
        f"B-XSA216-{_number:03}", f"{_abi.protocol}: a response carries nothing of the backend's memory", "XSA-216"
    )(_no_leak(_abi))


def _readonly_mode(mode: str) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.guest().attach(mode).connect()
        before = guest.read(0, PAGE_SIZE)
        page = guest.frontend.page(os.urandom(PAGE_SIZE))
        for operation in (WRITE, BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE):
            (answer,) = guest.ask(guest.request(operation, page.segment()))
            expect(answer.status != 0, f"{operation.name} on a disk of mode {mode!r} was done")
        guest.holds(0, before)

    return body


for _number, _mode in enumerate(("r", "R", "ro"), 1):
    BACKEND.case(
        f"B-XSA142-{_number:03}", f"mode {_mode!r} is read-only", "XSA-142; Linux backend_changed, strchr(mode, 'w')"
    )(_readonly_mode(_mode))


@BACKEND.case("B-XSA142-004", "mode 'w!' is read-write", "Linux backend_changed, strchr(mode, 'w')")
def _forced_write(lab: Lab) -> None:
    lab.guest().attach("w!").connect().works()


@BACKEND.case("B-CVE-2013-2140", "a discard on a read-only disk is refused, and changes nothing", "CVE-2013-2140")
def _discard_readonly(lab: Lab) -> None:
    guest = lab.connected(mode="r")
    before = guest.read(0, PAGE_SIZE)
    (answer,) = guest.ask(DiscardRequest(guest.handle, guest.new_id(), 0, 8, 0))
    expect(answer.status != 0, "a discard on a read-only disk was done")
    guest.holds(0, before)


@BACKEND.case("B-XSA175-001", "mode, params and online in the frontend's directory mean nothing", "XSA-175, XSA-178")
def _policy(lab: Lab) -> None:
    guest = lab.guest().attach("r").offered()
    guest.frontend.write({"mode": "w", "params": "/etc/passwd", "online": "0", "physical-device": "8:0"})
    guest.publish().served()
    page = guest.frontend.page(b"\x55" * PAGE_SIZE)
    guest.answered(guest.request(WRITE, page.segment()), BlkifStatus.ERROR)
    guest.answered(guest.request(READ, page.segment()))


@BACKEND.case("B-XSA229-001", "adjacent sectors from pages that lie apart are not merged wrongly", "XSA-229")
def _adjacent(lab: Lab) -> None:
    guest = lab.connected()
    guest.need_small_sectors()
    data = os.urandom(22 * PAGE_SIZE)
    pages = guest.frontend.pages_of(data)[::-1]
    requests = [guest.request(WRITE, page.segment(), sector=(21 - at) * 8) for at, page in enumerate(pages)]
    halves = [
        guest.request(WRITE, page.segment(4, 7), page.segment(0, 3), sector=200 + at * 8)
        for at, page in enumerate(pages[:8])
    ]
    expect(not any(a.status for a in guest.ask(*requests, *halves)), "a write of one of many pages failed")
    guest.holds(0, data[: 11 * PAGE_SIZE])
    guest.holds(88, data[11 * PAGE_SIZE :])
    swapped = b"".join(bytes(page.view[2048:]) + bytes(page.view[:2048]) for page in pages[:8])
    guest.holds(200, swapped)


@BACKEND.case("B-XSA332-001", "a storm of events does not keep another disk from working", "XSA-332")
def _storm(lab: Lab) -> None:
    neighbour, guest = lab.connected(), lab.connected()
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            guest.ring.channel.notify()

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(10):
            neighbour.works()
            guest.works()
    finally:
        stop.set()
        thread.join()


@BACKEND.case("B-XSA331-001", "a channel that is closed while events go over it does no harm", "XSA-331, XSA-441")
def _close_channel(lab: Lab) -> None:
    neighbour, guest = lab.connected(), lab.connected()
    page = guest.frontend.page()
    for _ in range(3):
        guest.put(*(guest.request(READ, page.segment()) for _ in range(32)))
        guest.ring.publish()
        guest.ring.channel.close()
        neighbour.works()
        guest.disconnect()
        guest.start_over()
        guest.publish().served().works()


@BACKEND.case("B-XSA349-001", "a state that is written without end does not keep the backend from others", "XSA-349")
def _state_storm(lab: Lab) -> None:
    neighbour, guest = lab.connected(), lab.connected()
    for at in range(3000):
        guest.frontend.switch(S.CONNECTED)
        if at % 1000 == 0:
            neighbour.works()
    guest.works()


@BACKEND.case("B-XSA350-001", "connecting and closing fast, with requests in flight, leaves nothing behind", "XSA-350")
def _toggle(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    for _ in range(10):
        guest.publish(persistent=True)
        page = guest.frontend.page()
        guest.put(*(guest.request(READ, page.segment()) for _ in range(32)))
        guest.ring.publish()
        guest.frontend.switch(S.CONNECTED)
        guest.frontend.switch(S.CLOSED)
        guest.frontend.await_backend(S.CLOSED)
        guest.nothing_mapped("Closed")
        guest.start_over()
    guest.publish().served().works()


def _bad_at_each(persistent: bool) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected(persistent=persistent)
        pages = [guest.frontend.page() for _ in range(11)]
        for operation in (READ, WRITE):
            for bad in range(11):
                segments = [page.segment(0, 0) for page in pages]
                segments[bad] = BlkifSegment(guest.frontend.ungranted_ref(), 0, 0)
                guest.answered(guest.request(operation, *segments), BlkifStatus.ERROR)
                if not persistent:
                    guest.nothing_but_the_ring_mapped("the request failed")
        guest.works()
        guest.disconnect()

    return body


for _number, _persistent in enumerate((False, True), 1):
    BACKEND.case(
        f"B-XSA365-{_number:03}",
        f"a bad reference at each place fails and leaks nothing, {'with' if _persistent else 'without'} persistence",
        "XSA-361, XSA-362, XSA-365, XSA-371",
    )(_bad_at_each(_persistent))


@BACKEND.case("B-XSA448-001", "zero-length requests are answered, and do no harm", "XSA-448")
def _zero_length(lab: Lab) -> None:
    guest = lab.connected()
    for request in (
        guest.request(READ),
        guest.request(WRITE),
        guest.request(BlkifOp.WRITE_BARRIER),
        DiscardRequest(guest.handle, guest.new_id(), 0, 0, 0),
        IndirectRequest(READ, guest.handle, guest.new_id(), 0, 0, tuple([GrantRef(0)] * 8)),
    ):
        (answer,) = guest.ask(request)
        expect(answer.status in _LEGAL, f"operation {request.operation} of nothing has status {answer.status}")
    guest.works()


@BACKEND.case("B-XSA-001", "the ring's own page as a page of data does no harm", "blkif, grants are only pages")
def _ring_as_data(lab: Lab) -> None:
    neighbour, guest = lab.connected(), lab.connected()
    guest.put(guest.request(WRITE, BlkifSegment(guest.ring.refs[0], 0, 7)))
    guest.ring.publish()
    wait_for(lambda: guest.ring.responses_waiting == 1, "an answer to a write of the ring's page")
    # A read overwrites the indexes with what the disk has: what comes of it is the guest's own affair.
    guest.ring.take(1)
    guest.put(guest.request(READ, BlkifSegment(guest.ring.refs[0], 0, 7)))
    guest.ring.publish()
    time.sleep(QUIET_S)
    neighbour.works()
    guest.disconnect()


@BACKEND.case("B-XSA-002", "one page as two segments of a read is served", "blkif, segments are independent")
def _same_page(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(2 * PAGE_SIZE)
    guest.write(0, data)
    page = guest.frontend.page()
    guest.answered(guest.request(READ, page.segment(), page.segment()))
    # In which order the two are read is nobody's business, but each sector is one or the other.
    for at in range(0, PAGE_SIZE, 512):
        found = bytes(page.view[at : at + 512])
        expect(found in (data[at : at + 512], data[PAGE_SIZE + at : PAGE_SIZE + at + 512]), "neither of both was read")


def _garbage(abi: Abi, seed: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected(abi)
        dice = random.Random(seed)
        for _ in range(20):
            slots = [dice.randbytes(abi.entry_size) for _ in range(dice.randint(1, 32))]
            guest.put(*slots)
            guest.ring.publish()
            answers = guest.ring.take(len(slots))
            ids = sorted(abi.parse_request(slot).id for slot in slots)
            expect(sorted(answer.id for answer in answers) == ids, f"seed {seed}: each id must be answered once")
            expect({answer.status for answer in answers} <= _LEGAL, f"seed {seed}: a status is none of blkif's")
        guest.works()

    return body


for _number, _abi in enumerate((X86_64, X86_32), 3):
    BACKEND.case(
        f"B-XSA-{_number:03}", f"{_abi.protocol}: random bytes as requests are each answered once", "blkif, any bytes"
    )(_garbage(_abi, _number))


def _stopped(guest: Guest) -> None:
    guest.ring.req_prod = guest.ring.req_prod_pvt + 1000
    guest.ring.channel.notify()


@BACKEND.case("B-CVE-2010-4247", "many rings stopped for their indexes do not slow a healthy one", "CVE-2010-4247")
def _many_stopped(lab: Lab) -> None:
    for _ in range(5):
        _stopped(lab.connected())
    neighbour = lab.connected()
    for _ in range(20):
        neighbour.works()


@BACKEND.case("B-CVE-2010-3699", "devices that come and go leave the others alone", "CVE-2010-3699")
def _come_and_go(lab: Lab) -> None:
    neighbour = lab.connected()
    for _ in range(10):
        guest = lab.connected(persistent=True)
        guest.works()
        guest.end()
        neighbour.works()
