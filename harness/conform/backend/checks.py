"""Cases: what a backend refuses, with which status, and in which order it looks."""

import os
from collections.abc import Callable
from typing import Final

from xenblk.abi import PAGE_SIZE, Domid, GrantRef
from xenblk.blkif import BlkifOp, BlkifSegment, BlkifStatus
from xenblk.errors import GrantError
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Guest, Lab
from xenblk.harness.conform.case import NotOfferedError, expect

READ, WRITE, FLUSH = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE
ERROR, EOPNOTSUPP = BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP

_DISPATCH = "Linux blkback.c dispatch_rw_block_io"
_TRANSLATE = "Linux blkback.c xen_vbd_translate"
_OTHER = "Linux blkback.c dispatch_other_io"


def _unknown(operation: int, nr_segments: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected()
        guest.answered(guest.request(operation, nr_segments=nr_segments), EOPNOTSUPP)
        guest.works()

    return body


for _number, (_operation, _count) in enumerate([(4, 0), (7, 0), (255, 0), (99, 255)], 1):
    BACKEND.case(
        f"B-CHECK-{_number:03}", f"operation {_operation} with {_count} segments is not supported, and echoed", _OTHER
    )(_unknown(_operation, _count))


def _segments(operation: int, count: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected()
        segments = [guest.frontend.page().segment()] * min(count, 11)
        guest.answered(guest.request(operation, *segments, nr_segments=count), ERROR)
        guest.works()

    return body


for _number, (_operation, _count) in enumerate([(READ, 0), (WRITE, 0), (READ, 12), (WRITE, 255), (FLUSH, 12)], 5):
    BACKEND.case(f"B-CHECK-{_number:03}", f"a {BlkifOp(_operation).name} of {_count} segments fails", _DISPATCH)(
        _segments(_operation, _count)
    )


def _bounds(first: int, last: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected()
        page = guest.frontend.page(b"\x55" * PAGE_SIZE)
        for operation in (READ, WRITE):
            guest.answered(guest.request(operation, page.segment(first, last)), ERROR)
            guest.answered(guest.request(operation, *[page.segment()] * 10, page.segment(first, last)), ERROR)
        guest.works()

    return body


for _number, (_first, _last) in enumerate([(0, 8), (0, 255), (8, 8), (255, 255), (1, 0), (7, 3)], 10):
    BACKEND.case(f"B-CHECK-{_number:03}", f"a segment of sectors {_first} to {_last} fails", _DISPATCH)(
        _bounds(_first, _last)
    )


@BACKEND.case("B-CHECK-016", "the sector behind the last one cannot be read or written", _TRANSLATE)
def _end(lab: Lab) -> None:
    guest = lab.connected()
    page, end = guest.frontend.page(), guest.sectors
    for operation in (READ, WRITE):
        guest.answered(guest.request(operation, page.segment(0, 0), sector=end), ERROR)
        guest.answered(guest.request(operation, page.segment(), sector=end - PAGE_SECTORS + 1), ERROR)
        guest.answered(guest.request(operation, page.segment(), sector=end - PAGE_SECTORS))


@BACKEND.case("B-CHECK-017", "a range whose end wraps fails", _TRANSLATE)
def _wraps(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page()
    for sector in ((1 << 64) - 1, (1 << 64) - 4, (1 << 63), (1 << 55) - 1, 1 << 55):
        guest.answered(guest.request(WRITE, page.segment(), sector=sector), ERROR)
    guest.works()


def _no_frame(guest: Guest) -> GrantRef:
    try:
        return guest.frontend.page(frame=0xFFFFFF).ref
    except GrantError as e:
        raise NotOfferedError(f"this platform makes no such grant: {e}") from None


_BAD_REFS: Final[dict[str, Callable[[Guest], GrantRef]]] = {
    "that grants nothing": lambda guest: guest.frontend.ungranted_ref(),
    "of Xen's own": lambda _guest: GrantRef(0),
    "beyond the table": lambda _guest: GrantRef(0xFFFFFFFF),
    "for another domain": lambda guest: guest.frontend.page(domid=Domid(77)).ref,
    "of a frame that is not there": _no_frame,
}

for _number, (_kind, _make_ref) in enumerate(_BAD_REFS.items(), 18):

    def _bad_ref(lab: Lab, make_ref: Callable[[Guest], GrantRef] = _make_ref) -> None:
        guest = lab.connected()
        segment = BlkifSegment(make_ref(guest), 0, 7)
        for operation in (READ, WRITE):
            guest.answered(guest.request(operation, segment), ERROR)
        guest.works()

    BACKEND.case(f"B-CHECK-{_number:03}", f"a reference {_kind} fails", "xen grant_table.c; Linux xen_blkbk_map")(
        _bad_ref
    )


@BACKEND.case("B-CHECK-023", "a write with one bad reference leaves the disk as it was", _DISPATCH)
def _nothing_written(lab: Lab) -> None:
    guest = lab.connected()
    before = os.urandom(11 * PAGE_SIZE)
    guest.write(0, before)
    page = guest.frontend.page(os.urandom(PAGE_SIZE))
    segments = [page.segment()] * 10 + [BlkifSegment(guest.frontend.ungranted_ref(), 0, 7)]
    guest.answered(guest.request(WRITE, *segments), ERROR)
    guest.holds(0, before)


@BACKEND.case("B-CHECK-024", "a write with one bad segment leaves the disk as it was", _DISPATCH)
def _nothing_written_at_all(lab: Lab) -> None:
    guest = lab.connected()
    before = os.urandom(PAGE_SIZE)
    guest.write(0, before)
    page = guest.frontend.page(os.urandom(PAGE_SIZE))
    guest.answered(guest.request(WRITE, page.segment(), page.segment(5, 4)), ERROR)
    guest.holds(0, before)


@BACKEND.case("B-CHECK-025", "a write on a read-only disk fails, and a read works", _TRANSLATE)
def _readonly(lab: Lab) -> None:
    guest = lab.connected(mode="r")
    before = guest.read(0, PAGE_SIZE)
    page = guest.frontend.page(os.urandom(PAGE_SIZE))
    guest.answered(guest.request(WRITE, page.segment()), ERROR)
    guest.holds(0, before)


@BACKEND.case(
    "B-CHECK-026", "what is refused before the grants maps nothing", "Linux dispatch_rw_block_io, order of checks"
)
def _order_before_map(lab: Lab) -> None:
    guest = lab.connected(mode="r", persistent=True)
    page = guest.frontend.page()
    guest.answered(guest.request(WRITE, page.segment()), ERROR)
    guest.answered(guest.request(READ, page.segment(), sector=guest.sectors), ERROR)
    guest.answered(guest.request(READ, page.segment(), page.segment(5, 4)), ERROR)
    expect(not guest.maps(page), "a page was mapped for a request that could be refused without it")


@BACKEND.case("B-CHECK-027", "an unknown operation on a read-only disk is not supported rather than refused", _OTHER)
def _order_unknown(lab: Lab) -> None:
    guest = lab.connected(mode="r")
    page = guest.frontend.page()
    guest.answered(guest.request(99, page.segment(5, 4), sector=guest.sectors, nr_segments=200), EOPNOTSUPP)


@BACKEND.case("B-CHECK-028", "good requests beside bad ones are done", "Linux blkback.c __do_block_io_op")
def _beside(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page(os.urandom(PAGE_SIZE))
    bad = ((READ, page.segment(5, 4)), (READ, page.segment(0, 8)), (99, page.segment()))
    requests = []
    for at in range(10):
        requests += [guest.request(WRITE, page.segment(), sector=at * 8), guest.request(*bad[at % 3])]
    answers = {answer.id: answer.status for answer in guest.ask(*requests)}
    expect(not any(answers[request.id] for request in requests[::2]), "a good request beside a bad one failed")
    expect(all(answers[request.id] for request in requests[1::2]), "a bad request beside a good one was done")
    guest.holds(72, bytes(page.view))
