"""Cases: indexes of the ring, when a backend notifies, and what it does with an index that cannot be."""

import random
import time
from collections.abc import Callable

from xenblk.blkif import X86_64, BlkifOp
from xenblk.harness.conform.backend.lab import BACKEND, QUIET_S, Guest, Lab
from xenblk.harness.conform.case import expect
from xenblk.harness.wire.deadline import wait_for
from xenblk.xenbus import XenbusState as S

READ = BlkifOp.READ
_PUSH = "io/ring.h RING_PUSH_RESPONSES_AND_CHECK_NOTIFY"
_BOGUS = "Linux __do_block_io_op, RING_REQUEST_PROD_OVERFLOW; CVE-2010-4247"
_NEAR_WRAP = 0xFFFF_FFF0


def _quiet(guest: Guest) -> Guest:
    """With no event pending, and none on its way."""
    guest.works()
    time.sleep(QUIET_S)
    guest.ring.drain_events()
    return guest


def _event_index(count: int, ahead: int, start: int, notified: bool) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = _quiet(lab.connected(start=start))
        page = guest.frontend.page()
        guest.ring.rsp_event = guest.ring.rsp_cons + ahead
        guest.ask(*(guest.request(READ, page.segment()) for _ in range(count)))
        found = guest.ring.channel.wait(1.0 if notified else QUIET_S)
        if notified:
            expect(found, f"{count} responses with rsp_event at the {ahead}. must notify, and did not")
        else:
            expect(not found, f"{count} responses with rsp_event {ahead} ahead must not notify, and did")

    return body


# old = 0: responses, rsp_event - old, where the indexes start, whether that notifies
_TRUTH = (
    (1, 1, 0, True),
    (1, 2, 0, False),
    (1, 0, 0, False),
    (4, 4, 0, True),
    (4, 5, 0, False),
    (1, 1, 0xFFFF_FFFD, True),
    (4, 4, 0xFFFF_FFFB, True),
    (4, 5, 0xFFFF_FFFB, False),
)
for _number, (_count, _ahead, _start, _notified) in enumerate(_TRUTH, 1):
    _where = " across the wrap of the indexes" if _start else ""
    BACKEND.case(
        f"B-RING-{_number:03}",
        f"{_count} responses with rsp_event {_ahead} ahead {'notify' if _notified else 'are silent'}{_where}",
        _PUSH,
    )(_event_index(_count, _ahead, _start, _notified))


@BACKEND.case(
    "B-RING-009", "an idle backend asks to be notified of the next request", "io/ring.h RING_FINAL_CHECK_FOR_REQUESTS"
)
def _req_event(lab: Lab) -> None:
    guest = lab.connected()
    for _ in range(5):
        guest.works()
        ring = guest.ring
        wait_for(lambda ring=ring: ring.req_event == ring.req_prod + 1, "req_event one ahead of req_prod")  # type: ignore[misc]


@BACKEND.case(
    "B-RING-010", "indexes begin where the ring says, and wrap at 2^32", "Linux xen_blkif_map, attach at rsp_prod"
)
def _wrap(lab: Lab) -> None:
    guest = lab.connected(start=_NEAR_WRAP)
    page = guest.frontend.page()
    for _ in range(2):
        requests = [guest.request(READ, page.segment()) for _ in range(guest.ring.nr_ents)]
        answers = guest.ask(*requests)
        expect(sorted(a.id for a in answers) == [r.id for r in requests], "each id must be answered once")
    expect(guest.ring.rsp_prod == (_NEAR_WRAP + 64) & 0xFFFFFFFF, f"rsp_prod is {guest.ring.rsp_prod:#x}")
    guest.works()


@BACKEND.case(
    "B-RING-011",
    "requests that are in the ring before it is connected are done",
    "Linux xen_blkif_map, attach at rsp_prod",
)
def _before_connecting(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.ring = guest.frontend.ring()
    page = guest.frontend.page()
    guest.put(*(guest.request(READ, page.segment()) for _ in range(5)))
    guest.ring.publish()
    guest.frontend.write(guest.keys())
    guest.frontend.switch(S.INITIALISED)
    guest.served()
    expect(not any(a.status for a in guest.ring.take(5)), "a request that was in the ring failed")


@BACKEND.case(
    "B-RING-012", "a ring with more unanswered requests than slots is not connected", "Linux xen_blkif_map, -EIO"
)
def _too_many_before(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.ring = guest.frontend.ring()
    guest.ring.req_prod = guest.ring.nr_ents + 1
    guest.frontend.write(guest.keys())
    guest.frontend.switch(S.INITIALISED)
    guest.refused()


def _impossible(ahead: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        neighbour, guest = lab.connected(), lab.connected()
        guest.works()
        answered = guest.ring.rsp_prod
        guest.ring.req_prod = guest.ring.req_prod_pvt + ahead
        guest.ring.channel.notify()
        time.sleep(QUIET_S)
        neighbour.works()
        expect(guest.ring.rsp_prod == answered, "a backend answered requests that cannot be")
        _start_over(guest)

    return body


def _start_over(guest: Guest) -> None:
    guest.disconnect()
    guest.start_over()
    guest.publish().served().works()


for _number, _ahead in enumerate((33, 1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF), 13):
    BACKEND.case(
        f"B-RING-{_number:03}", f"req_prod {_ahead:#x} ahead stops that ring, until a new one is connected", _BOGUS
    )(_impossible(_ahead))


@BACKEND.case("B-RING-018", "random indexes stop one ring and no other", _BOGUS)
def _random_indexes(lab: Lab) -> None:
    neighbour = lab.connected()
    dice = random.Random(1)
    for _ in range(5):
        guest = lab.connected()
        guest.works()
        guest.ring.req_prod = guest.ring.req_prod_pvt + dice.randrange(33, 1 << 32)
        guest.ring.channel.notify()
        neighbour.works()
        _start_over(guest)


@BACKEND.case("B-RING-019", "req_prod exactly a ring ahead is a full ring", _BOGUS)
def _exactly_full(lab: Lab) -> None:
    guest = lab.connected()
    guest.works()
    page = guest.frontend.page()
    guest.ask(*(guest.request(READ, page.segment()) for _ in range(guest.ring.nr_ents)))


@BACKEND.case("B-RING-020", "events without requests do no harm", "XSA-332, spurious events")
def _spurious(lab: Lab) -> None:
    guest = lab.connected()
    for _ in range(1000):
        guest.ring.channel.notify()
    guest.works()


@BACKEND.case(
    "B-RING-021", "a backend writes its own two indexes and slots, and nothing else", "io/ring.h struct sring"
)
def _own_fields(lab: Lab) -> None:
    guest = lab.connected()
    ring = guest.ring
    end = ring.slot_offset(ring.nr_ents - 1) + ring.abi.entry_size
    ring.write(16, b"\x5a" * 48)
    ring.write(end, b"\x5a" * (4096 - end))
    ring.rsp_event = 12345
    page = guest.frontend.page()
    for _ in range(3):
        guest.ask(*(guest.request(READ, page.segment()) for _ in range(ring.nr_ents)))
    expect(ring.read(16, 48) == b"\x5a" * 48, "the padding of the ring's header was written")
    expect(ring.read(end, 4096 - end) == b"\x5a" * (4096 - end), "what is behind the last slot was written")
    expect(ring.req_prod == ring.req_prod_pvt and ring.rsp_event == 12345, "the frontend's indexes were written")


@BACKEND.case("B-RING-022", "each response takes the next slot, one per request", "io/ring.h RING_GET_RESPONSE")
def _next_slot(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page()
    for count in (1, 2, 5, 31, 32, 32, 7):
        before = guest.ring.rsp_prod
        guest.ask(*(guest.request(READ, page.segment()) for _ in range(count)))
        time.sleep(0.002)
        expect(
            guest.ring.rsp_prod == before + count, f"{count} requests moved rsp_prod by {guest.ring.rsp_prod - before}"
        )


@BACKEND.case("B-RING-023", "a slot that was not published is not looked at", "io/ring.h, req_prod")
def _not_published(lab: Lab) -> None:
    guest = lab.connected()
    before = guest.ring.rsp_prod
    guest.put(guest.request(READ, guest.frontend.page().segment()))
    guest.ring.channel.notify()
    time.sleep(QUIET_S)
    expect(guest.ring.rsp_prod == before, "a request was answered before it was published")
    guest.ring.publish()
    guest.ring.take(1)


@BACKEND.case(
    "B-RING-024",
    "a request that is published while others are served needs no event of its own",
    "io/ring.h RING_FINAL_CHECK_FOR_REQUESTS",
)
def _by_the_rule(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page()
    for _ in range(300):
        old = guest.ring.req_prod
        guest.put(guest.request(READ, page.segment(0, 0)))
        guest.ring.publish(notify=False)
        # A raw ring has no fence between its indexes, so the rule is asked again until there is a response.
        wait_for(lambda old=old: _answered_or_notified(guest, old), "a response without an event that was asked for")  # type: ignore[misc]
        guest.ring.take(1)


def _answered_or_notified(guest: Guest, old: int) -> bool:
    if guest.ring.req_event == old + 1:
        guest.ring.channel.notify()
        return True
    return guest.ring.responses_waiting > 0


@BACKEND.case("B-RING-025", "two devices of one guest do not wait for each other", "blkif, a ring per device")
def _two_devices(lab: Lab) -> None:
    first = lab.connected()
    second = lab.guest(handle=first.handle + 16, beside=first).attach().connect(X86_64)
    first.ring.req_prod = first.ring.req_prod_pvt + 100
    first.ring.channel.notify()
    second.works()
