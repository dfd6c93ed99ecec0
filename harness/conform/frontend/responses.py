"""Cases for frontends: what they make of responses, honest, unusual and impossible."""

from collections.abc import Callable
from concurrent.futures import Future

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import BlkifOp, IndirectRequest, Request
from xenblk.harness.conform.case import expect, require
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, FrontendStage
from xenblk.harness.wire.back_ring import RawBackRing

_CHECKS = "Linux xen-blkfront.c, blkif_interrupt (hardening of 2021)"
_STATUS = "io/blkif.h, BLKIF_RSP_*"


def _one_read(stage: FrontendStage) -> tuple[Future[bytes], Request]:
    frontend = stage.connect()
    reading = frontend.read(0, SECTOR_SIZE)
    return reading, stage.take()[0]


def _refused(status: int, name: str, number: int) -> None:
    @FRONTEND.case(f"F-RESP-{number:03}", f"{name} is an error of that operation alone", _STATUS)
    def refused(stage: FrontendStage) -> str:
        frontend = stage.connect()
        reading, writing = frontend.read(0, SECTOR_SIZE), frontend.write(PAGE_SIZE, bytes(SECTOR_SIZE))
        for request in stage.take(2):
            stage.ring.answer(request, status)
        said = [stage.error(future, "an operation") for future in (reading, writing)]
        stage.expect_working(frontend)
        return f"read: {said[0]}"


_refused(-1, "ERROR", 1)
_refused(-2, "EOPNOTSUPP", 2)
_refused(-3, "a status that nobody knows", 3)
_refused(1, "a positive status", 4)


@FRONTEND.case("F-RESP-005", "one request of many fails the operation that it is of", _STATUS)
def one_of_many(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = frontend.read(0, 40 * PAGE_SIZE)
    requests = stage.take(4)
    for request in requests:
        stage.ring.answer(request, -1 if request is requests[1] else 0)
    stage.error(reading, "a read of which a part failed")
    stage.expect_working(frontend)


def _padding(number: int, fill: int) -> None:
    @FRONTEND.case(f"F-RESP-{number:03}", f"padding of {fill:#04x} is ignored", "io/blkif.h, blkif_response")
    def padding(stage: FrontendStage) -> None:
        reading, request = _one_read(stage)
        stage.ring.answer(request, padding=fill)
        stage.finish(reading, "the read")


_padding(6, 0xFF)
_padding(7, 0xA5)


@FRONTEND.case("F-RESP-008", "an indirect request's answer has its inner operation", "io/blkif.h, BLKIF_OP_INDIRECT")
def inner_operation(stage: FrontendStage) -> None:
    _indirect(stage, lambda ring, request: ring.answer(request), honest=True)


@FRONTEND.case("F-RESP-009", "an indirect request answered with operation 6 is no answer", _CHECKS)
def outer_operation(stage: FrontendStage) -> None:
    _indirect(stage, lambda ring, request: ring.answer(request, operation=BlkifOp.INDIRECT), honest=False)


def _indirect(stage: FrontendStage, answer: Callable[[RawBackRing, Request], None], honest: bool) -> None:
    frontend = stage.connect({**FLUSH, "feature-max-indirect-segments": "32"})
    writing = frontend.write(0, bytes(32 * PAGE_SIZE))
    (request,) = stage.take()
    require(isinstance(request, IndirectRequest), "this frontend sends no indirect requests")
    answer(stage.ring, request)
    if honest:
        stage.finish(writing, "the write")
    else:
        stage.error(writing, "the write")
        stage.expect_disabled(frontend)


def _impossible(number: int, title: str, answer: Callable[[RawBackRing, Request], None]) -> None:
    """A backend that breaks the protocol is trusted no more: the operation fails, and so does all that comes later."""

    @FRONTEND.case(f"F-RESP-{number:03}", f"{title}: the device is disabled", _CHECKS)
    def impossible(stage: FrontendStage) -> str:
        frontend = stage.connect()
        reading = frontend.read(0, SECTOR_SIZE)
        (request,) = stage.take()
        answer(stage.ring, request)
        error = stage.error(reading, "the read")
        stage.expect_disabled(frontend)
        return str(error)


def _jump(ring: RawBackRing, distance: int) -> None:
    ring.publish(ring.rsp_prod + distance)
    ring.channel.notify()


def _twice(ring: RawBackRing, request: Request) -> None:
    ring.answer(request, number=(request.id + 1) % ring.nr_ents)
    ring.answer(request)


_impossible(20, "rsp_prod one beyond the ring", lambda ring, _request: _jump(ring, ring.nr_ents + 1))
_impossible(21, "rsp_prod half the numbers away", lambda ring, _request: _jump(ring, 1 << 31))
_impossible(22, "rsp_prod that goes backwards", lambda ring, _request: _jump(ring, -1))
_impossible(23, "an id beyond the ring", lambda ring, request: ring.answer(request, number=ring.nr_ents))
_impossible(24, "an id of 64 bits", lambda ring, request: ring.answer(request, number=(1 << 64) - 1))
_impossible(
    25, "an id whose low half is right", lambda ring, request: ring.answer(request, number=request.id | 1 << 32)
)
_impossible(26, "an id that is not in flight", lambda ring, request: ring.answer(request, number=request.id ^ 1))
_impossible(27, "a write's answer to a read", lambda ring, request: ring.answer(request, operation=1))
_impossible(28, "an operation that nobody knows", lambda ring, request: ring.answer(request, operation=255))
_impossible(29, "two answers, the first to nothing", _twice)


@FRONTEND.case("F-RESP-030", "an answer that came before: the device is disabled", _CHECKS)
def duplicate(stage: FrontendStage) -> None:
    frontend = stage.connect()
    first, second = frontend.read(0, SECTOR_SIZE), frontend.read(PAGE_SIZE, SECTOR_SIZE)
    requests = stage.take(2)
    stage.ring.answer(requests[0])
    stage.ring.answer(requests[0])
    outcomes = [stage.end_of(future, "a read") for future in (first, second)]
    expect(outcomes[1] is not None or outcomes[0] is not None, "both operations succeeded, one was never answered")
    stage.expect_disabled(frontend)


@FRONTEND.case("F-RESP-031", "what was answered before the fault is not lost", _CHECKS)
def before_the_fault(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.image[:PAGE_SIZE] = b"\x11" * PAGE_SIZE
    first, second = frontend.read(0, SECTOR_SIZE), frontend.read(PAGE_SIZE, SECTOR_SIZE)
    requests = stage.take(2)
    by_sector = {request.sector_number: request for request in requests}
    stage.ring.answer(by_sector[0], stage.carry_out(by_sector[0]))
    expect(stage.finish(first, "the first read") == b"\x11" * SECTOR_SIZE, "the first read got something else")
    stage.ring.answer(by_sector[8], number=999)
    stage.error(second, "the second read")
    stage.expect_disabled(frontend)


@FRONTEND.case("F-RESP-032", "a response that changes after it was published is read once", _CHECKS)
def changes(stage: FrontendStage) -> None:
    frontend = stage.connect()
    for _ in range(30):
        reading = [frontend.read(n * PAGE_SIZE, SECTOR_SIZE) for n in range(2)]
        honest, other = stage.take(2)
        at = stage.ring.rsp_prod_pvt
        stage.ring.answer(honest)
        for number in (other.id, honest.id) * 20:  # the frontend reads whichever is there, and must believe it once
            stage.ring.slot(at)[:8] = number.to_bytes(8, "little")
        stage.ring.answer(other)
        done = [stage.end_of(future, "a read") for future in reading]
        if any(done):
            stage.expect_disabled(frontend)
            return
    stage.expect_working(frontend)


@FRONTEND.case("F-RESP-033", "a disabled device can be closed", _CHECKS)
def close_disabled(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = frontend.read(0, SECTOR_SIZE)
    (request,) = stage.take()
    stage.ring.answer(request, number=12345)
    stage.error(reading, "the read")
    stage.leave(frontend)
