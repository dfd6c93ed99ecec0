"""Cases: several rings of one device."""

import os
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Guest, Lab
from xenblk.harness.conform.case import expect
from xenblk.harness.wire.ring import RawRing
from xenblk.xenbus import XenbusState as S

_SOURCE = "io/blkif.h multi-queue-max-queues; Linux connect_ring"
_KEY = "multi-queue-max-queues"


def _offered(lab: Lab, count: int, order: int = 0) -> Guest:
    guest = lab.guest().attach().offered()
    guest.require(_KEY, count)
    if order:
        guest.require("max-ring-page-order", order)
    return guest


def _publish(guest: Guest, count: int, abi: Abi = X86_64, order: int = 0, drop: str | None = None) -> list[RawRing]:
    """Keys of several rings; `drop` is one that is left out."""
    rings = [guest.frontend.ring(abi, order) for _ in range(count)]
    keys: dict[str, str | None] = {"protocol": abi.protocol, "multi-queue-num-queues": str(count)}
    for at, ring in enumerate(rings):
        for key, value in ring.keys().items():
            # The order is the device's, not the queue's.
            keys[key if key == "ring-page-order" else f"queue-{at}/{key}"] = value
    if drop is not None:
        del keys[drop]
    guest.frontend.write(keys)
    guest.frontend.switch(S.INITIALISED)
    guest.ring = rings[0]
    return rings


def _each_works(guest: Guest, rings: list[RawRing]) -> None:
    for at, ring in enumerate(rings):
        guest.ring = ring
        data = os.urandom(PAGE_SIZE)
        guest.write(at * 8, data)
        guest.holds(at * 8, data)


def _several(count: int, abi: Abi, order: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = _offered(lab, count, order)
        rings = _publish(guest, count, abi, order)
        guest.served()
        _each_works(guest, rings)

    return body


for _number, (_count, _abi, _order) in enumerate([(2, X86_64, 0), (4, X86_64, 0), (2, X86_32, 0), (2, X86_64, 2)], 1):
    BACKEND.case(
        f"B-QUEUE-{_number:03}", f"{_abi.protocol}: {_count} rings of {1 << _order} pages each serve the disk", _SOURCE
    )(_several(_count, _abi, _order))


@BACKEND.case("B-QUEUE-005", "a second ring without its reference is refused", _SOURCE)
def _missing_ref(lab: Lab) -> None:
    guest = _offered(lab, 2)
    _publish(guest, 2, drop="queue-1/ring-ref")
    guest.refused()


@BACKEND.case("B-QUEUE-006", "a second ring without its event channel is refused", _SOURCE)
def _missing_channel(lab: Lab) -> None:
    guest = _offered(lab, 2)
    _publish(guest, 2, drop="queue-1/event-channel")
    guest.refused()


@BACKEND.case("B-QUEUE-007", "an index that cannot be stops its ring, and no other of the device", "CVE-2010-4247")
def _one_stops(lab: Lab) -> None:
    guest = _offered(lab, 2)
    rings = _publish(guest, 2)
    guest.served()
    rings[0].req_prod = 1000
    rings[0].channel.notify()
    _each_works(guest, rings[1:])
    guest.disconnect()


@BACKEND.case("B-QUEUE-008", "requests in all rings at once are all answered", _SOURCE)
def _at_once(lab: Lab) -> None:
    guest = _offered(lab, 2)
    rings = _publish(guest, 2)
    guest.served()
    page = guest.frontend.page()
    for ring in rings:
        guest.ring = ring
        guest.put(
            *(guest.request(BlkifOp.READ, page.segment(), sector=at * PAGE_SECTORS) for at in range(ring.nr_ents))
        )
        ring.publish()
    for ring in rings:
        expect(not any(a.status for a in ring.take(ring.nr_ents)), "a request of one of two full rings failed")
    guest.disconnect()


@BACKEND.case("B-QUEUE-009", "a device with two rings may start over with one", "Linux xen_blkif_disconnect")
def _fewer(lab: Lab) -> None:
    guest = _offered(lab, 2)
    rings = _publish(guest, 2)
    guest.served()
    _each_works(guest, rings)
    guest.disconnect()
    guest.start_over()
    guest.publish(keys={"multi-queue-num-queues": None}).served().works()
