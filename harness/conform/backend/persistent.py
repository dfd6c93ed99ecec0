"""Cases: which pages a backend keeps mapped, and which it must not."""

import os
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import BlkifOp, BlkifSegment, BlkifStatus
from xenblk.harness.conform.backend.lab import BACKEND, Guest, Lab
from xenblk.harness.conform.case import expect, require

READ, WRITE = BlkifOp.READ, BlkifOp.WRITE
_KEY = "feature-persistent"
_SPEC = "io/blkif.h feature-persistent, note 7 to 10"


def _persistent(lab: Lab) -> Guest:
    guest = lab.connected(persistent=True)
    guest.require(_KEY)
    return guest


@BACKEND.case("B-PERSIST-001", "a page stays mapped after its response", _SPEC)
def _kept(lab: Lab) -> None:
    guest = _persistent(lab)
    guest.need_sight()
    page = guest.frontend.page()
    guest.answered(guest.request(READ, page.segment()))
    expect(page.mapped, "persistence was negotiated, and the page was unmapped at once")


@BACKEND.case("B-PERSIST-002", "a page that is kept is used again with new data", _SPEC)
def _again(lab: Lab) -> None:
    guest = _persistent(lab)
    page = guest.frontend.page()
    for at in range(10):
        page.view[:] = data = os.urandom(PAGE_SIZE)
        guest.answered(guest.request(WRITE, page.segment(), sector=at * 8))
        guest.holds(at * 8, data)


@BACKEND.case("B-PERSIST-003", "a page that is kept is mapped for writing, after a write to the disk too", _SPEC)
def _writable(lab: Lab) -> None:
    guest = _persistent(lab)
    guest.need_sight()
    page = guest.frontend.page()
    guest.answered(guest.request(WRITE, page.segment()))
    expect(page.mapped_writable, "the page is not mapped for writing, so a read could not use it")


def _not_negotiated(value: bool | None) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected(persistent=value)
        guest.need_sight()
        page = guest.frontend.page()
        for operation in (READ, WRITE):
            guest.answered(guest.request(operation, page.segment()))
            expect(not page.mapped, "persistence was not negotiated, and the page is mapped after the response")

    return body


for _number, _value in enumerate((None, False), 4):
    BACKEND.case(
        f"B-PERSIST-{_number:03}",
        f"nothing is kept for a frontend whose feature-persistent is {'missing' if _value is None else '0'}",
        _SPEC,
    )(_not_negotiated(_value))


@BACKEND.case("B-PERSIST-006", "nothing is kept by a backend that does not offer it", _SPEC)
def _not_offered(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    require(not guest.number(_KEY), "feature-persistent is 1")
    guest.need_sight()
    guest.works()
    guest.nothing_but_the_ring_mapped("the backend does not offer persistence")


@BACKEND.case("B-PERSIST-007", "one page twice in a request works", "Linux xen_blkbk_map, gref found active")
def _twice(lab: Lab) -> None:
    guest = _persistent(lab)
    data = os.urandom(PAGE_SIZE)
    page = guest.frontend.page(data)
    guest.answered(guest.request(WRITE, page.segment(), page.segment()))
    guest.holds(0, data * 2)


@BACKEND.case("B-PERSIST-008", "one page in two requests at once works", "Linux get_persistent_gnt, gref found active")
def _two_requests(lab: Lab) -> None:
    guest = _persistent(lab)
    data = os.urandom(PAGE_SIZE)
    page = guest.frontend.page(data)
    for _ in range(10):
        answers = guest.ask(*(guest.request(WRITE, page.segment(), sector=at * 8) for at in range(16)))
        expect(not any(a.status for a in answers), "a request with a page of another one failed")
    guest.holds(0, data * 11)


@BACKEND.case(
    "B-PERSIST-009", "more pages than any limit are served, some kept and some not", "Linux max_persistent_grants"
)
def _beyond_the_limit(lab: Lab) -> str:
    guest = _persistent(lab)
    pages = [guest.frontend.page() for _ in range(1200)]
    for at in range(0, len(pages), 10):
        guest.answered(guest.request(READ, *(page.segment() for page in pages[at : at + 10])))
    kept = sum(guest.maps(page) for page in pages)
    expect(kept or not guest.sees_mappings, "nothing was kept")
    return f"{kept if guest.sees_mappings else 'nobody sees how many'} of {len(pages)} pages are kept"


@BACKEND.case(
    "B-PERSIST-010", "feature-persistent changed while Connected has no effect", "Linux connect_ring reads it once"
)
def _flipped(lab: Lab) -> None:
    guest = _persistent(lab)
    guest.need_sight()
    guest.frontend.write({_KEY: "0"})
    page = guest.frontend.page()
    guest.answered(guest.request(READ, page.segment()))
    expect(page.mapped, "what was negotiated changed without a new connection")


@BACKEND.case(
    "B-PERSIST-011",
    "feature-persistent written while Connected is not enough to keep pages",
    "Linux connect_ring reads it once",
)
def _flipped_on(lab: Lab) -> None:
    guest = lab.connected(persistent=False)
    guest.require(_KEY)
    guest.need_sight()
    guest.frontend.write({_KEY: "1"})
    guest.works()
    guest.nothing_but_the_ring_mapped("persistence was not negotiated when the ring was connected")


@BACKEND.case("B-PERSIST-012", "all that was kept is unmapped before Closed", "Linux free_persistent_gnts")
def _released(lab: Lab) -> None:
    guest = _persistent(lab)
    pages = [guest.frontend.page() for _ in range(110)]
    for at in range(0, len(pages), 11):
        guest.answered(guest.request(READ, *(page.segment() for page in pages[at : at + 11])))
    guest.disconnect()


@BACKEND.case(
    "B-PERSIST-013", "a failed mapping is not kept, and the good pages beside it stay usable", "XSA-365, XSA-371"
)
def _failed(lab: Lab) -> None:
    guest = _persistent(lab)
    pages = [guest.frontend.page() for _ in range(11)]
    for bad in range(11):
        segments = [page.segment() for page in pages]
        segments[bad] = BlkifSegment(guest.frontend.ungranted_ref(), 0, 0)
        guest.answered(guest.request(WRITE, *segments), BlkifStatus.ERROR)
        guest.answered(guest.request(WRITE, *(page.segment() for page in pages)))
    guest.disconnect()


@BACKEND.case(
    "B-PERSIST-014",
    "a page granted for reading only cannot be kept, so a write from it fails",
    "Linux xen_blkbk_map, GNTMAP_readonly",
)
def _readonly(lab: Lab) -> None:
    guest = _persistent(lab)
    page = guest.frontend.page(readonly=True)
    guest.answered(guest.request(WRITE, page.segment()), BlkifStatus.ERROR)
    expect(not guest.maps(page), "a page whose mapping failed is mapped")
