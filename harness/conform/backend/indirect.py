"""Cases: indirect requests, whose segments are in granted pages."""

import os
import struct
from collections.abc import Callable, Sequence
from typing import Final

from xenblk.abi import PAGE_SIZE, GrantRef
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifSegment, BlkifStatus, IndirectRequest
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Guest, Lab, whole_segments
from xenblk.harness.conform.case import expect, require

_SOURCE = "io/blkif.h struct blkif_request_indirect"
_KEY = "feature-max-indirect-segments"
_PER_PAGE: Final = 512
_SEGMENT: Final = struct.Struct("<IBBxx")

ERROR = BlkifStatus.ERROR


def _guest(lab: Lab, abi: Abi = X86_64, *, at_least: int = 1, persistent: bool | None = None) -> Guest:
    guest = lab.connected(abi, persistent=persistent)
    guest.require(_KEY, at_least)
    return guest


def _indirect(
    guest: Guest,
    operation: int,
    segments: Sequence[BlkifSegment],
    sector: int = 0,
    *,
    nr_segments: int | None = None,
    grefs: Sequence[GrantRef] | None = None,
    rest: bytes = b"",
) -> IndirectRequest:
    """A request whose segments are in new pages, followed by `rest`, or in the pages `grefs`."""
    packed = b"".join(_SEGMENT.pack(s.gref, s.first_sect, s.last_sect) for s in segments) + rest
    refs = list(grefs) if grefs is not None else [page.ref for page in guest.frontend.pages_of(packed)]
    refs += [GrantRef(0xFFFFFFF0)] * (8 - len(refs))
    count = len(segments) if nr_segments is None else nr_segments
    return IndirectRequest(operation, guest.handle, guest.new_id(), sector, count, tuple(refs))


def _write_and_read(guest: Guest, nr_pages: int) -> None:
    data = os.urandom(nr_pages * PAGE_SIZE)
    pages = guest.frontend.pages_of(data)
    guest.answered(_indirect(guest, BlkifOp.WRITE, whole_segments(pages, len(data)), 8), operation=BlkifOp.WRITE)
    for page in pages:
        page.view[:] = bytes(PAGE_SIZE)
    guest.answered(_indirect(guest, BlkifOp.READ, whole_segments(pages, len(data)), 8), operation=BlkifOp.READ)
    expect(b"".join(bytes(page.view) for page in pages) == data, "what was written indirectly does not read back")


def _length(nr_pages: int, abi: Abi) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        _write_and_read(_guest(lab, abi, at_least=nr_pages), nr_pages)

    return body


for _number, (_pages, _abi) in enumerate([(1, X86_64), (12, X86_64), (32, X86_64), (12, X86_32)], 1):
    BACKEND.case(f"B-INDIRECT-{_number:03}", f"{_abi.protocol}: {_pages} segments are written and read back", _SOURCE)(
        _length(_pages, _abi)
    )


@BACKEND.case("B-INDIRECT-005", "as many segments as are offered", "io/blkif.h feature-max-indirect-segments")
def _most(lab: Lab) -> None:
    guest = _guest(lab)
    guest.need_small_sectors()
    count = min(guest.number(_KEY), 8 * _PER_PAGE)
    # Of several pages: one reference can be mapped 255 times at once, and no more.
    pages = [guest.frontend.page() for _ in range(32)]
    segments = [pages[at % 32].segment(at % 8, at % 8) for at in range(count)]
    require(count <= guest.sectors, f"{count} segments are more than the disk has sectors")
    guest.answered(_indirect(guest, BlkifOp.READ, segments), operation=BlkifOp.READ)


@BACKEND.case("B-INDIRECT-006", "one segment more than is offered fails", "Linux dispatch_rw_block_io, nr_segments")
def _too_many(lab: Lab) -> None:
    guest = _guest(lab)
    count = guest.number(_KEY) + 1
    page = guest.frontend.page()
    request = _indirect(guest, BlkifOp.READ, [page.segment(0, 0)] * min(count, 8 * _PER_PAGE), nr_segments=count)
    guest.answered(request, ERROR, BlkifOp.READ)


def _inner(operation: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = _guest(lab)
        guest.answered(_indirect(guest, operation, [guest.frontend.page().segment()]), ERROR, operation)

    return body


for _number, _inner_op in enumerate((BlkifOp.FLUSH_DISKCACHE, BlkifOp.INDIRECT, 99), 7):
    BACKEND.case(
        f"B-INDIRECT-{_number:03}",
        f"indirect operation {int(_inner_op)} fails, and is what the response names",
        "Linux dispatch_rw_block_io, indirect_op",
    )(_inner(_inner_op))


@BACKEND.case("B-INDIRECT-010", "an indirect page that is not granted fails", "Linux xen_blkbk_parse_indirect")
def _ungranted(lab: Lab) -> None:
    guest = _guest(lab)
    request = _indirect(guest, BlkifOp.READ, [guest.frontend.page().segment()], grefs=[guest.frontend.ungranted_ref()])
    guest.answered(request, ERROR, BlkifOp.READ)
    guest.works()


@BACKEND.case("B-INDIRECT-011", "no segments at all fail", "Linux dispatch_rw_block_io, nseg == 0")
def _none(lab: Lab) -> None:
    guest = _guest(lab)
    guest.answered(_indirect(guest, BlkifOp.WRITE, [], grefs=[guest.frontend.page().ref]), ERROR, BlkifOp.WRITE)


def _bad_segment(first: int, last: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = _guest(lab)
        page = guest.frontend.page()
        segments = [page.segment()] * 5 + [page.segment(first, last)]
        guest.answered(_indirect(guest, BlkifOp.READ, segments), ERROR, BlkifOp.READ)
        guest.works()

    return body


for _number, (_first, _last) in enumerate([(0, 8), (5, 4), (255, 255)], 12):
    BACKEND.case(
        f"B-INDIRECT-{_number:03}",
        f"a segment of sectors {_first} to {_last} fails",
        "XSA-155; Linux xen_blkbk_parse_indirect",
    )(_bad_segment(_first, _last))


@BACKEND.case("B-INDIRECT-015", "references beyond the pages that are needed mean nothing", _SOURCE)
def _unused_refs(lab: Lab) -> None:
    _write_and_read(_guest(lab), 1)


@BACKEND.case("B-INDIRECT-016", "what follows the segments in their page means nothing", _SOURCE)
def _unused_segments(lab: Lab) -> None:
    guest = _guest(lab)
    page = guest.frontend.page()
    request = _indirect(guest, BlkifOp.READ, [page.segment()], rest=b"\xff" * 4000)
    guest.answered(request, operation=BlkifOp.READ)


@BACKEND.case("B-INDIRECT-017", "beyond the end of the disk fails", "Linux xen_vbd_translate")
def _beyond(lab: Lab) -> None:
    guest = _guest(lab)
    segments = [guest.frontend.page().segment()] * 2
    request = _indirect(guest, BlkifOp.READ, segments, guest.sectors - PAGE_SECTORS)
    guest.answered(request, ERROR, BlkifOp.READ)


@BACKEND.case(
    "B-INDIRECT-018", "without persistence pages are mapped for no longer than the request", "Linux xen_blkbk_unmap"
)
def _released(lab: Lab) -> None:
    guest = _guest(lab, persistent=False)
    guest.need_sight()
    _write_and_read(guest, 12)
    guest.nothing_but_the_ring_mapped("persistence was not negotiated")


@BACKEND.case("B-INDIRECT-019", "the indirect page as a page of data does no harm", "blkif, page used twice")
def _as_data(lab: Lab) -> None:
    guest = _guest(lab)
    page = guest.frontend.page()
    page.view[: _SEGMENT.size] = _SEGMENT.pack(page.ref, 0, 7)
    request = _indirect(guest, BlkifOp.READ, [page.segment()], grefs=[page.ref])
    (answer,) = guest.ask(request)
    expect(answer.operation == BlkifOp.READ and answer.status in (BlkifStatus.OKAY, ERROR), f"answered with {answer}")
    guest.works()


@BACKEND.case("B-INDIRECT-020", "one page given for two indirect pages does no harm", "blkif, indirect gref repeated")
def _repeated(lab: Lab) -> None:
    guest = _guest(lab, at_least=_PER_PAGE + 1)
    guest.need_small_sectors()
    pages = [guest.frontend.page() for _ in range(_PER_PAGE // 8)]
    table = guest.frontend.page(b"".join(_SEGMENT.pack(page.ref, 0, 0) for page in pages) * 8)
    segments = [page.segment(0, 0) for page in pages] * 8 + [pages[0].segment(0, 0)]
    guest.answered(_indirect(guest, BlkifOp.READ, segments, grefs=[table.ref] * 2), operation=BlkifOp.READ)


@BACKEND.case(
    "B-INDIRECT-021", "a bad reference at any place fails, and leaves nothing mapped", "XSA-361, XSA-365, XSA-371"
)
def _bad_at_each(lab: Lab) -> None:
    guest = _guest(lab, at_least=32, persistent=False)
    pages = [guest.frontend.page() for _ in range(32)]
    for bad in range(0, 32, 3):
        segments = [page.segment(0, 0) for page in pages]
        segments[bad] = BlkifSegment(guest.frontend.ungranted_ref(), 0, 0)
        guest.answered(_indirect(guest, BlkifOp.WRITE, segments), ERROR, BlkifOp.WRITE)
        guest.nothing_but_the_ring_mapped("the request failed")
    guest.works()


@BACKEND.case(
    "B-INDIRECT-022",
    "where it is not offered, operation 6 has a legal status",
    "io/blkif.h feature-max-indirect-segments",
)
def _not_offered(lab: Lab) -> str:
    guest = lab.connected()
    require(not guest.number(_KEY), f"{_KEY} is offered")
    (answer,) = guest.ask(_indirect(guest, BlkifOp.READ, [guest.frontend.page().segment()]))
    expect(answer.status in tuple(BlkifStatus), f"the status is {answer.status}")
    return f"the status is {answer.status}"


@BACKEND.case("B-INDIRECT-023", "an indirect write on a read-only disk fails", "Linux xen_vbd_translate, mode")
def _readonly(lab: Lab) -> None:
    guest = lab.connected(mode="r")
    guest.require(_KEY)
    segments = [guest.frontend.page().segment()]
    guest.answered(_indirect(guest, BlkifOp.WRITE, segments), ERROR, BlkifOp.WRITE)
    guest.answered(_indirect(guest, BlkifOp.READ, segments), operation=BlkifOp.READ)


@BACKEND.case("B-INDIRECT-024", "bytes between the fields mean nothing", _SOURCE)
def _padding(lab: Lab) -> None:
    for abi in (X86_64, X86_32):
        guest = _guest(lab, abi)
        request = _indirect(guest, BlkifOp.READ, [guest.frontend.page().segment()])
        slot = bytearray(abi.pack_request(request))
        slot[64:] = b"\xaa" * (abi.entry_size - 64)
        (answer,) = guest.ask(bytes(slot))
        expect((answer.id, answer.status) == (request.id, BlkifStatus.OKAY), f"answered with {answer}")
