"""Cases: layouts of requests and responses, padding and ids, and rings of every size in both layouts."""

import os
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifRequest, BlkifStatus
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Guest, Lab
from xenblk.harness.conform.case import expect

_REQUEST = "io/blkif.h struct blkif_request"
_RESPONSE = "io/blkif.h struct blkif_response"

_ABIS = (X86_64, X86_32)


def _both(numbers: tuple[int, int], title: str, source: str) -> Callable[[Callable[[Lab, Abi], None]], None]:
    """Register a case for each layout."""

    def register(body: Callable[[Lab, Abi], None]) -> None:
        for number, abi in zip(numbers, _ABIS, strict=True):
            BACKEND.case(f"B-ABI-{number:03}", f"{abi.protocol}: {title}", source)(lambda lab, abi=abi: body(lab, abi))  # type: ignore[misc]

    return register


@_both((1, 2), "11 segments are written and read back", _REQUEST)
def _eleven(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    data = os.urandom(11 * PAGE_SIZE)
    guest.write(8, data)
    guest.holds(8, data)


@_both(
    (3, 4), "all 64 bits of an id are echoed", "io/blkif.h id: private guest value; edk2 and mini-os put pointers there"
)
def _ids(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    page = guest.frontend.page()
    for number in (0, 1, 0xFFFF_FFFF, 0x1_0000_0000, 0xFFFF_8880_1234_5678, 0xFFFF_FFFF_FFFF_FFFF):
        guest.answered(BlkifRequest(BlkifOp.READ, guest.handle, number, 0, 1, (page.segment(),)))


@_both(
    (5, 6), "padding in requests means nothing", "io/blkif.h, undefined padding; Linux blkfront leaves remains there"
)
def _request_padding(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    data = os.urandom(PAGE_SIZE)
    page = guest.frontend.page(data)
    request = guest.request(BlkifOp.WRITE, page.segment(), sector=8)
    clean = bytearray(abi.pack_request(request))
    for at in _padding_of(guest, request):
        clean[at] = 0xAA
    (answer,) = guest.ask(bytes(clean))
    expect((answer.id, answer.status) == (request.id, BlkifStatus.OKAY), f"answered with {answer}")
    guest.holds(8, data)


def _padding_of(guest: Guest, request: BlkifRequest) -> list[int]:
    """The bytes of a slot that do not change what the request says."""
    abi = guest.ring.abi
    packed = abi.pack_request(request)
    found = []
    for at in range(abi.entry_size):
        changed = bytearray(packed)
        changed[at] ^= 0xFF
        if abi.parse_request(bytes(changed)) == request:
            found.append(at)
    return found


@_both((7, 8), "two requests with one id are answered both", "io/blkif.h id: private guest value")
def _same_id(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    pages = [guest.frontend.page() for _ in range(2)]
    requests = [
        BlkifRequest(BlkifOp.READ, guest.handle, 77, at * 8, 1, (page.segment(),)) for at, page in enumerate(pages)
    ]
    answers = guest.ask(*requests)
    expect([(a.id, a.status) for a in answers] == [(77, 0), (77, 0)], f"answered with {answers}")


@_both((9, 10), "every status has its operation beside it", _RESPONSE)
def _operations(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    page = guest.frontend.page()
    guest.answered(guest.request(BlkifOp.READ, page.segment()))
    guest.answered(guest.request(BlkifOp.WRITE, page.segment()))
    guest.answered(guest.request(BlkifOp.READ, page.segment(5, 4)), BlkifStatus.ERROR)


def _every_slot(lab: Lab, abi: Abi, order: int) -> None:
    """Each slot has a request whose every byte counts: sector, reference and id differ."""
    guest = lab.connected(abi, order)
    count = guest.ring.nr_ents
    room = guest.sectors // PAGE_SECTORS
    pages = [guest.frontend.page(os.urandom(PAGE_SIZE)) for _ in range(min(count, room))]
    for operation in (BlkifOp.WRITE, BlkifOp.READ):
        requests = [
            guest.request(operation, pages[at % room].segment(), sector=at % room * PAGE_SECTORS) for at in range(count)
        ]
        before = [bytes(page.view) for page in pages]
        answers = guest.ask(*requests)
        expect(sorted(a.id for a in answers) == [r.id for r in requests], "each id must be answered once")
        expect(not any(a.status for a in answers), f"{operation.name}s of a whole ring failed")
        expect([bytes(page.view) for page in pages] == before, "the disk does not hold what each slot wrote")


_NUMBER = 11
for _abi in _ABIS:
    for _order in range(5):
        BACKEND.case(
            f"B-ABI-{_NUMBER:03}",
            f"{_abi.protocol}: every slot of a ring of {1 << _order} pages that lie apart",
            "io/ring.h __RING_SIZE; io/blkif.h max-ring-page-order",
        )(lambda lab, abi=_abi, order=_order: _every_slot(lab, abi, order))  # type: ignore[misc]
        _NUMBER += 1


@_both((21, 22), "all bytes of a response beside id, operation and status are zero", "XSA-216")
def _response_padding(lab: Lab, abi: Abi) -> None:
    guest = lab.connected(abi)
    guest.ring.fill(0xAA)
    page = guest.frontend.page()
    requests = [guest.request(op, page.segment()) for op in (BlkifOp.READ, BlkifOp.WRITE, 99)]
    requests += [guest.request(BlkifOp.READ)]
    guest.put(*requests)
    guest.ring.publish()
    size = 16 if abi is X86_64 else 12
    for slot in guest.ring.take_slots(len(requests)):
        padding = [slot[9], *slot[12:size]]
        expect(not any(padding), f"the padding of a response is {bytes(padding).hex()}, and must be zero")
