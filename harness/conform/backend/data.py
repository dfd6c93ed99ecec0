"""Cases: reads and writes, whole pages and parts, at the disk's ends, many at once."""

import os
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import BlkifOp, BlkifStatus
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Lab
from xenblk.harness.conform.case import expect, require

READ, WRITE = BlkifOp.READ, BlkifOp.WRITE
_READ = "io/blkif.h BLKIF_OP_READ"
_WRITE = "io/blkif.h BLKIF_OP_WRITE"
_SEGMENT = "io/blkif.h struct blkif_request_segment"


def _length(nr_bytes: int) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.connected()
        data = os.urandom(nr_bytes)
        guest.write(8, data)
        guest.holds(8, data)

    return body


for _number, _bytes in enumerate((SECTOR_SIZE, PAGE_SIZE, 3 * PAGE_SIZE + SECTOR_SIZE, 10 * PAGE_SIZE), 1):
    BACKEND.case(f"B-READ-{_number:03}", f"{_bytes} bytes are read as they were written", _READ)(_length(_bytes))


@BACKEND.case("B-READ-005", "a segment within a page fills its sectors and no other", _SEGMENT)
def _within(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(3 * SECTOR_SIZE)
    guest.write(16, data)
    page = guest.frontend.page(b"\x55" * PAGE_SIZE)
    guest.answered(guest.request(READ, page.segment(3, 5), sector=16))
    edge = b"\x55" * SECTOR_SIZE
    expect(bytes(page.view) == 3 * edge + data + 2 * edge, "a read wrote outside its segment, or not into it")


@BACKEND.case("B-READ-006", "the last sectors of the disk can be read", _READ)
def _last(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page()
    guest.answered(guest.request(READ, page.segment(), sector=guest.sectors - PAGE_SECTORS))
    guest.answered(guest.request(READ, page.segment(0, 0), sector=guest.sectors - 1))


@BACKEND.case("B-READ-007", "segments of different lengths follow each other on the disk", _SEGMENT)
def _uneven(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(7 * SECTOR_SIZE)
    guest.write(24, data)
    pages = [guest.frontend.page() for _ in range(3)]
    segments = [pages[0].segment(7, 7), pages[1].segment(2, 5), pages[2].segment(0, 1)]
    guest.answered(guest.request(READ, *segments, sector=24))
    found = b"".join(
        bytes(page.view[s.first_sect * SECTOR_SIZE : (s.last_sect + 1) * SECTOR_SIZE])
        for page, s in zip(pages, segments, strict=True)
    )
    expect(found == data, "the segments of a read are not in order")


@BACKEND.case("B-READ-008", "a read into a page that is granted for reading only fails", "xen grant_table.c, write map")
def _into_readonly(lab: Lab) -> None:
    guest = lab.connected()
    page = guest.frontend.page(b"\x55" * PAGE_SIZE, readonly=True)
    guest.answered(guest.request(READ, page.segment()), BlkifStatus.ERROR)
    expect(bytes(page.view) == b"\x55" * PAGE_SIZE, "a page granted for reading only was written")


@BACKEND.case("B-READ-009", "a ring full of reads is answered, each id once", "io/ring.h RING_FULL")
def _full_ring(lab: Lab) -> None:
    guest = lab.connected()
    pages = [guest.frontend.page() for _ in range(guest.ring.nr_ents)]
    requests = [guest.request(READ, page.segment(), sector=at * PAGE_SECTORS) for at, page in enumerate(pages)]
    answers = guest.ask(*requests)
    expect(sorted(a.id for a in answers) == [r.id for r in requests], "each id must be answered once")
    expect(not any(a.status for a in answers), "a read of a full ring failed")


@BACKEND.case("B-WRITE-001", "a segment within a page is written, and nothing beside it", _SEGMENT)
def _write_within(lab: Lab) -> None:
    guest = lab.connected()
    before, data = os.urandom(3 * SECTOR_SIZE), os.urandom(PAGE_SIZE)
    guest.write(32, before)
    guest.answered(guest.request(WRITE, guest.frontend.page(data).segment(4, 4), sector=33))
    guest.holds(32, before[:512] + data[4 * 512 : 5 * 512] + before[1024:])


@BACKEND.case("B-WRITE-002", "the last sector of the disk can be written", _WRITE)
def _write_last(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(SECTOR_SIZE)
    guest.write(guest.sectors - 1, data)
    guest.holds(guest.sectors - 1, data)


@BACKEND.case(
    "B-WRITE-003",
    "without persistence a page granted for reading only can be written from",
    "Linux xen_blkbk_map, GNTMAP_readonly",
)
def _from_readonly(lab: Lab) -> None:
    guest = lab.connected(persistent=False)
    data = os.urandom(PAGE_SIZE)
    guest.answered(guest.request(WRITE, guest.frontend.page(data, readonly=True).segment(), sector=40))
    guest.holds(40, data)


@BACKEND.case("B-WRITE-004", "a write is seen by the reads after its response", _WRITE)
def _in_order(lab: Lab) -> None:
    guest = lab.connected()
    for _ in range(20):
        data = os.urandom(SECTOR_SIZE)
        guest.write(48, data)
        guest.holds(48, data)


@BACKEND.case("B-WRITE-005", "a write leaves the guest's page as it is", _WRITE)
def _page_unchanged(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(PAGE_SIZE)
    page = guest.frontend.page(data)
    guest.answered(guest.request(WRITE, page.segment(2, 6)))
    expect(bytes(page.view) == data, "a write changed the guest's memory")


@BACKEND.case("B-WRITE-006", "a ring full of writes and reads keeps each apart", "io/ring.h RING_FULL")
def _mixed(lab: Lab) -> None:
    guest = lab.connected()
    old = os.urandom(11 * PAGE_SIZE)
    guest.write(0, old)
    reads = [guest.frontend.page() for _ in range(11)]
    fresh = [guest.frontend.page(os.urandom(PAGE_SIZE)) for _ in range(11)]
    requests = []
    for at in range(11):
        requests.append(guest.request(READ, reads[at].segment(), sector=at * 8))
        requests.append(guest.request(WRITE, fresh[at].segment(), sector=(at + 11) * 8))
    answers = guest.ask(*requests)
    expect(not any(a.status for a in answers), "a request of a mixed batch failed")
    expect(b"".join(bytes(page.view) for page in reads) == old, "a read of a mixed batch got the wrong data")
    guest.holds(88, b"".join(bytes(page.view) for page in fresh))


@BACKEND.case(
    "B-WRITE-007", "one page is written to eleven places by one request", "Linux xen_blkbk_map, gref found active"
)
def _one_page_eleven_times(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(PAGE_SIZE)
    page = guest.frontend.page(data)
    guest.answered(guest.request(WRITE, *[page.segment()] * 11, sector=0))
    guest.holds(0, data * 11)


@BACKEND.case(
    "B-WRITE-008",
    "with sectors of 4096 bytes what is not aligned to them fails",
    "io/blkif.h sector-size; Linux blkback.c alignment",
)
def _alignment(lab: Lab) -> None:
    guest = lab.connected()
    require(guest.number("sector-size") > SECTOR_SIZE, "sector-size is 512, to which everything is aligned")
    page = guest.frontend.page()
    guest.answered(guest.request(WRITE, page.segment(0, 0)), BlkifStatus.ERROR)
    guest.answered(guest.request(WRITE, page.segment(), sector=1), BlkifStatus.ERROR)
