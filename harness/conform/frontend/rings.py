"""Cases for frontends: the indexes and event indexes of the ring, a full ring, and events that come as they like."""

import time

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.harness.conform.case import expect
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, PERSISTENT, FrontendStage
from xenblk.harness.wire.deadline import patience_s, wait_for

_RING = "io/ring.h"
_PUSH = "io/ring.h, RING_PUSH_REQUESTS_AND_CHECK_NOTIFY"


def _full_ring(number: int, order: int) -> None:
    @FRONTEND.case(f"F-RING-{number:03}", f"a ring of order {order} takes what fits, and the rest later", _RING)
    def full(stage: FrontendStage) -> None:
        features = {**FLUSH, "max-ring-page-order": "4", "max-ring-pages": "16"}
        frontend = stage.connect(features, ring_page_order=order) if order else stage.connect()
        size = 32 << order
        stage.require_many(size)
        expect(stage.ring.nr_ents == size, f"the ring has {stage.ring.nr_ents} slots")
        reading = [frontend.read(n % 1000 * PAGE_SIZE, SECTOR_SIZE) for n in range(size + 20)]
        wait_for(lambda: stage.ring.pending == size, "a full ring")
        stage.wait_quietly()
        expect(stage.ring.pending == size, f"{stage.ring.pending} requests are out, on {size} slots")
        stage.serve(*reading)


for _order in (0, 1, 2, 4):
    _full_ring(1 + _order, _order)


@FRONTEND.case("F-RING-010", "the request that the backend waits for is notified", _PUSH)
def notifies(stage: FrontendStage) -> None:
    frontend = stage.connect()
    for _ in range(5):
        stage.ring.ask_for_event()
        while stage.ring.channel.wait(0):
            pass
        reading = frontend.read(0, SECTOR_SIZE)
        expect(stage.ring.channel.wait(patience_s()), "no event came with the request that was waited for")
        stage.serve(reading)


@FRONTEND.case("F-RING-011", "a request before the one that the backend waits for is not notified", _PUSH)
def holds(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.ring.req_event = stage.ring.req_cons + 5
    while stage.ring.channel.wait(0):
        pass
    reading = frontend.read(0, SECTOR_SIZE)
    request = stage.ring.take()
    expect(not stage.ring.channel.wait(stage.kind.quiet_s), "an event came four requests too early")
    stage.ring.answer(request)
    stage.finish(reading, "the read")


@FRONTEND.case("F-RING-012", "a batch that passes the awaited request is notified", _PUSH)
def batch(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.require_many(8)
    stage.ring.req_event = stage.ring.req_cons + 3
    while stage.ring.channel.wait(0):
        pass
    reading = [frontend.read(n * PAGE_SIZE, SECTOR_SIZE) for n in range(8)]
    expect(stage.ring.channel.wait(patience_s()), "no event came, though the third request was waited for")
    stage.serve(*reading)


@FRONTEND.case("F-RING-013", "before it sleeps it asks for the next response's event", "io/ring.h, RING_FINAL_CHECK")
def asks(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = [frontend.read(n * PAGE_SIZE, SECTOR_SIZE) for n in range(2)]
    requests = stage.take(2)
    for request in requests:
        answered = stage.ring.rsp_prod_pvt
        wait_for(
            lambda answered=answered: stage.ring.rsp_event == answered + 1,  # type: ignore[misc]
            f"rsp_event {answered + 1}, before it sleeps with requests in flight",
        )
        stage.ring.answer(request)
    for future in reading:
        stage.finish(future, "a read")


@FRONTEND.case("F-RING-014", "no wake-up is lost by a backend that notifies as the event index asks", _RING)
def no_lost_wakeup(stage: FrontendStage) -> None:
    frontend = stage.connect()
    for n in range(200):
        reading = frontend.read(n * PAGE_SIZE, SECTOR_SIZE)
        request = stage.ring.take()
        stage.ring.answer(request, push=False)
        if stage.ring.publish():
            stage.ring.channel.notify()
        stage.finish(reading, f"read {n}")


@FRONTEND.case("F-RING-015", "many responses with one event", _RING)
def one_event(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = [frontend.read(n * PAGE_SIZE, SECTOR_SIZE) for n in range(20)]
    for request in stage.take(20):
        stage.ring.answer(request, push=False)
    stage.ring.push()
    for future in reading:
        stage.finish(future, "a read")


@FRONTEND.case("F-RING-016", "responses in any order", "io/blkif.h, struct blkif_response")
def any_order(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, **PERSISTENT})
    for n in range(16):
        stage.image[n * PAGE_SIZE : (n + 1) * PAGE_SIZE] = bytes([n + 1]) * PAGE_SIZE
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(16)]
    for request in reversed(stage.take(16)):
        stage.ring.answer(request, stage.carry_out(request))
    for n, future in enumerate(reading):
        expect(stage.finish(future, f"read {n}") == bytes([n + 1]) * PAGE_SIZE, f"read {n} got another's data")


@FRONTEND.case("F-RING-017", "a late response is waited for", _RING)
def late(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = frontend.read(0, SECTOR_SIZE)
    (request,) = stage.take()
    time.sleep(0.6)
    expect(not reading.done(), "the read ended without a response")
    stage.ring.answer(request)
    stage.finish(reading, "the read")


@FRONTEND.case("F-RING-018", "events without a reason do no harm", "event channels may be spurious at any time")
def spurious(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = frontend.read(0, SECTOR_SIZE)
    (request,) = stage.take()
    for _ in range(50):
        stage.ring.channel.notify()
        time.sleep(0.0005)
    expect(not reading.done(), "an event was taken for a response")
    stage.ring.answer(request)
    stage.finish(reading, "the read")


@FRONTEND.case("F-RING-019", "a ring used for many rounds", _RING)
def rounds(stage: FrontendStage) -> None:
    frontend = stage.connect()
    before = stage.ring.req_prod
    for _ in range(8):
        stage.serve(*[frontend.read(n * PAGE_SIZE, SECTOR_SIZE) for n in range(32)])
    expect(stage.ring.req_prod == stage.ring.rsp_prod == before + 256, "requests and responses do not match")


@FRONTEND.case("F-RING-020", "requests that straddle the pages of a ring are whole", "ring of order 2: slot 72")
def straddling(stage: FrontendStage) -> None:
    features = {**FLUSH, "max-ring-page-order": "4", "max-ring-pages": "16"}
    frontend = stage.connect(features, ring_page_order=2)
    data = [bytes([n]) * (11 * PAGE_SIZE) for n in range(1, 90)]
    for content in data:
        stage.serve(frontend.write(0, content))
        expect(stage.image[: len(content)] == content, "a request of eleven segments was torn")
