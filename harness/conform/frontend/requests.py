"""Cases for frontends: requests are as they must be, whatever the user asks for, and mean what he asked for."""

import random

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import BlkifOp, DiscardRequest, IndirectRequest
from xenblk.harness.conform.case import expect, require
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, PERSISTENT, SECTORS, FrontendStage, nr_sectors
from xenblk.harness.conform.frontend.subject import FrontendUnderTest

_HEADER = "io/blkif.h, struct blkif_request"
_UNITS = "xen commit 221f2748e8: 512-byte units everywhere"
_INDIRECT = "io/blkif.h, feature-max-indirect-segments"
_DISCARD = {"feature-discard": "1", "discard-granularity": "512", "discard-alignment": "0", "discard-secure": "0"}


def _pattern(seed: int, nr_bytes: int) -> bytes:
    return _sectors(random.Random(seed), nr_bytes // SECTOR_SIZE)


def _sectors(dice: random.Random, count: int) -> bytes:
    """Sectors that differ. Each repeats eight bytes, so that a guest is told of many of them in few words."""
    return b"".join(dice.randbytes(8) * (SECTOR_SIZE // 8) for _ in range(count))


@FRONTEND.case("F-REQ-001", "a read of one sector is one segment of one sector", _HEADER)
def one_sector(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.image[5 * SECTOR_SIZE : 6 * SECTOR_SIZE] = data = _pattern(1, SECTOR_SIZE)
    reading = frontend.read(5 * SECTOR_SIZE, SECTOR_SIZE)
    (request,) = stage.take()
    expect(request.operation == BlkifOp.READ, f"the operation is {request.operation}")
    expect(request.sector_number == 5, f"sector_number is {request.sector_number}")
    expect(nr_sectors(list(stage.backend.segments(request))) == 1, "it is not one sector")
    stage.ring.answer(request, stage.carry_out(request))
    expect(stage.finish(reading, "the read") == data, "what was read is not what the backend gave")


@FRONTEND.case("F-REQ-002", "a write's data is in its segments", _HEADER)
def write(stage: FrontendStage) -> None:
    frontend = stage.connect()
    data = _pattern(2, PAGE_SIZE)
    writing = frontend.write(PAGE_SIZE, data)
    (request,) = stage.take()
    expect(request.operation == BlkifOp.WRITE, f"the operation is {request.operation}")
    expect(stage.backend.gather(stage.backend.segments(request)) == data, "the pages hold something else")
    stage.ring.answer(request)
    stage.finish(writing, "the write")


def _sizes(number: int, seed: int, features: dict[str, str], title: str) -> None:
    @FRONTEND.case(f"F-REQ-{number:03}", title, _HEADER)
    def sizes(stage: FrontendStage) -> None:
        frontend = stage.connect(features)
        dice = random.Random(seed)
        for _ in range(12):
            count = dice.choice([1, 3, 7, 8, 9, 17, 88, 89, 200])
            first = dice.randrange(SECTORS - count)
            _write_and_read(stage, frontend, first * SECTOR_SIZE, _sectors(dice, count))


def _write_and_read(stage: FrontendStage, frontend: FrontendUnderTest, offset: int, data: bytes) -> None:
    stage.serve(frontend.write(offset, data))
    expect(stage.image[offset : offset + len(data)] == data, f"{len(data)} bytes at {offset} arrived otherwise")
    reading = frontend.read(offset, len(data))
    stage.serve(reading)
    expect(reading.result() == data, f"{len(data)} bytes at {offset} were read otherwise")


_sizes(3, 3, FLUSH, "any size at any sector")
_sizes(4, 4, {**FLUSH, **PERSISTENT}, "any size at any sector, grants kept")


@FRONTEND.case("F-REQ-005", "a large write is split into requests that cover it once", _HEADER)
def split(stage: FrontendStage) -> str:
    frontend = stage.connect()
    data = _pattern(5, 64 * PAGE_SIZE)
    stage.serve(frontend.write(0, data))
    covered = [
        request.sector_number + sector
        for request, segments in zip(stage.seen, stage.segments_seen, strict=True)
        for sector in range(nr_sectors(segments))
    ]
    expect(sorted(covered) == list(range(64 * 8)), "a sector is missing, or written twice")
    expect(stage.image[: len(data)] == data, "the data arrived otherwise")
    return f"{len(stage.seen)} requests for 64 pages"


@FRONTEND.case("F-REQ-006", "the last sector can be used, and nothing beyond it", _HEADER)
def end_of_disk(stage: FrontendStage) -> None:
    frontend = stage.connect()
    _write_and_read(stage, frontend, (SECTORS - 1) * SECTOR_SIZE, _pattern(6, SECTOR_SIZE))
    before = stage.ring.req_prod
    writing = frontend.write((SECTORS - 1) * SECTOR_SIZE, bytes(2 * SECTOR_SIZE))
    expect(stage.end_of(writing, "the write") is not None, "a write beyond the end succeeded")
    expect(stage.ring.req_prod == before, "a request beyond the end was sent")


@FRONTEND.case("F-REQ-007", "ids in flight are different", "Linux xen-blkfront.c, blkif_interrupt")
def ids(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(16)]
    requests = stage.take(16)
    expect(len({request.id for request in requests}) == 16, "two requests in flight have one id")
    for request in requests:
        stage.ring.answer(request)
    for future in reading:
        stage.finish(future, "a read")


@FRONTEND.case("F-REQ-008", "requests in flight do not share pages", _HEADER)
def pages(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, **PERSISTENT})
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(16)]
    requests = stage.take(16)
    refs = [segment.gref for request in requests for segment in stage.backend.segments(request)]
    expect(len(set(refs)) == len(refs), "a page is lent to two requests at a time")
    for request in requests:
        stage.ring.answer(request)
    for future in reading:
        stage.finish(future, "a read")


# Indirect


@FRONTEND.case("F-REQ-020", "no indirect request where none is offered", _INDIRECT)
def no_indirect(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.serve(frontend.write(0, bytes(64 * PAGE_SIZE)))
    expect(not any(isinstance(request, IndirectRequest) for request in stage.seen), "an indirect request was sent")


@FRONTEND.case("F-REQ-021", "no indirect request where no more than 11 segments are offered", _INDIRECT)
def useless_indirect(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "feature-max-indirect-segments": "8"})
    stage.serve(frontend.write(0, bytes(64 * PAGE_SIZE)))
    expect(not any(isinstance(request, IndirectRequest) for request in stage.seen), "an indirect request was sent")


def _indirect(number: int, offered: int, features: dict[str, str]) -> None:
    kept = ", grants kept" if "feature-persistent" in features else ""

    @FRONTEND.case(f"F-REQ-{number:03}", f"indirect requests of at most {offered} segments{kept}", _INDIRECT)
    def indirect(stage: FrontendStage) -> str:
        frontend = stage.connect({**features, "feature-max-indirect-segments": str(offered)})
        stage.keep = "feature-persistent" in features
        _write_and_read(stage, frontend, 3 * SECTOR_SIZE, _pattern(number, 100 * PAGE_SIZE))
        found = [request for request in stage.seen if isinstance(request, IndirectRequest)]
        require(found, "this frontend sends no indirect requests")
        small = [request.nr_segments for request in found if request.nr_segments <= 11]
        return f"{len(found)} indirect requests, {len(small)} of them of no more than 11 segments"


for _at, (_offered, _features) in enumerate(
    [(16, FLUSH), (32, FLUSH), (256, FLUSH), (32, {**FLUSH, **PERSISTENT}), (256, {**FLUSH, **PERSISTENT})], 22
):
    _indirect(_at, _offered, dict(_features))


@FRONTEND.case("F-REQ-027", "a flush is never indirect", "io/blkif.h, BLKIF_OP_INDIRECT")
def direct_flush(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "feature-max-indirect-segments": "256"})
    stage.serve(frontend.flush())
    expect(not any(isinstance(request, IndirectRequest) for request in stage.seen), "the flush is indirect")


# Units


@FRONTEND.case("F-REQ-040", "`sectors` counts 512 bytes whatever `sector-size` is", _UNITS)
def large_sectors_size(stage: FrontendStage) -> None:
    frontend = stage.connect(properties={"sector-size": "4096", "physical-sector-size": "4096"})
    expect(frontend.size == SECTORS * SECTOR_SIZE, f"the disk has {frontend.size} bytes for its user")


@FRONTEND.case("F-REQ-041", "`sector_number` counts 512 bytes whatever `sector-size` is", _UNITS)
def large_sectors_number(stage: FrontendStage) -> None:
    frontend = stage.connect(properties={"sector-size": "4096", "physical-sector-size": "4096"})
    _write_and_read(stage, frontend, 7 * PAGE_SIZE, _pattern(41, 2 * PAGE_SIZE))
    expect(stage.seen[0].sector_number == 56, f"sector_number is {stage.seen[0].sector_number} at byte 28672")


@FRONTEND.case("F-REQ-042", "no request is smaller than a sector of 4096 bytes", _UNITS)
def large_sectors_aligned(stage: FrontendStage) -> None:
    frontend = stage.connect(properties={"sector-size": "4096", "physical-sector-size": "4096"})
    stage.serve_until_done(frontend.write(3 * SECTOR_SIZE, bytes(SECTOR_SIZE)))
    for request, segments in zip(stage.seen, stage.segments_seen, strict=True):
        expect(request.sector_number % 8 == 0, f"sector_number {request.sector_number} is not aligned")
        expect(all((s.last_sect - s.first_sect + 1) % 8 == 0 for s in segments), "a segment is not aligned")


# Flush, discard, read-only


@FRONTEND.case("F-REQ-050", "a flush is one request without segments", "io/blkif.h, BLKIF_OP_FLUSH_DISKCACHE")
def flush(stage: FrontendStage) -> None:
    frontend = stage.connect()
    flushing = frontend.flush()
    (request,) = stage.take()
    expect(request.operation == BlkifOp.FLUSH_DISKCACHE, f"the operation is {request.operation}")
    expect(not stage.backend.segments(request), "it carries data")
    stage.ring.answer(request)
    stage.finish(flushing, "the flush")


@FRONTEND.case("F-REQ-051", "a flush that the backend cannot do ends at once", "Linux xen-blkfront.c, blkif_queue_rq")
def no_flush(stage: FrontendStage) -> None:
    frontend = stage.connect({"feature-flush-cache": "0", "feature-barrier": "0"})
    stage.finish(frontend.flush(), "a flush that is not offered")
    stage.expect_no_request("a flush was sent to a backend that does not offer it")


@FRONTEND.case("F-REQ-052", "a backend with barriers alone is flushed by one", "Linux xen-blkfront.c, flush handling")
def barrier(stage: FrontendStage) -> str:
    frontend = stage.connect({"feature-flush-cache": "0", "feature-barrier": "1"})
    stage.serve(frontend.flush())
    expect(all(request.operation == BlkifOp.WRITE_BARRIER for request in stage.seen), "another operation was sent")
    return "a barrier was sent" if stage.seen else "nothing was sent"


@FRONTEND.case("F-REQ-060", "a discard counts sectors of 512 bytes", "io/blkif.h, struct blkif_request_discard")
def discard(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, **_DISCARD})
    require(frontend.offers_discard, "this frontend has no discard")
    stage.serve(frontend.discard(16 * SECTOR_SIZE, 24 * SECTOR_SIZE))
    (request,) = stage.seen
    assert isinstance(request, DiscardRequest)
    found = (request.sector_number, request.nr_sectors)
    expect(found == (16, 24), f"sector_number and nr_sectors are {found}, not 16 and 24")
    expect(request.flag == 0, f"the flag is {request.flag}")


@FRONTEND.case("F-REQ-061", "no discard where none is offered", "io/blkif.h, feature-discard")
def no_discard(stage: FrontendStage) -> None:
    frontend = stage.connect()
    require(frontend.offers_discard, "this frontend has no discard")
    frontend.discard(0, PAGE_SIZE)
    stage.expect_no_request("a discard was sent to a backend that does not offer it")


@FRONTEND.case("F-REQ-070", "a read-only disk is not written to", "io/blkif.h, VDISK_READONLY")
def read_only(stage: FrontendStage) -> None:
    frontend = stage.connect(properties={"info": "4"})
    expect(frontend.read_only, "its user is not told")
    writing = frontend.write(0, bytes(PAGE_SIZE))
    expect(stage.end_of(writing, "the write") is not None, "the write succeeded")
    stage.expect_no_request("a write was sent to a read-only disk")
    stage.serve(frontend.read(0, PAGE_SIZE))
