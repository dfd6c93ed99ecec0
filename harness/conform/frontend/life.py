"""Cases for frontends: what a backend cannot do after all, resizing, closing, starting over. Advisories by name."""

import errno
import time
from concurrent.futures import Future
from typing import Any

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, GrantRef
from xenblk.blkif import BlkifOp
from xenblk.harness.conform.case import expect, require
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, PROPERTIES, SECTORS, FrontendStage
from xenblk.harness.conform.frontend.subject import FrontendUnderTest
from xenblk.harness.wire.deadline import patience_s, wait_for
from xenblk.xenbus import XenbusState as S

_DEGRADE = "Linux xen-blkfront.c, blkif_interrupt"
_CHANGED = "Linux xen-blkfront.c, blkback_changed"
_RECOVER = "Linux xen-blkfront.c, blkif_recover"

# Degradation


@FRONTEND.case("F-LIFE-001", "a flush answered EOPNOTSUPP is a success, and the last one", _DEGRADE)
def refused_flush(stage: FrontendStage) -> None:
    frontend = stage.connect()
    flushing = frontend.flush()
    (request,) = stage.take()
    stage.ring.answer(request, -2)
    stage.finish(flushing, "the flush")
    stage.finish(frontend.flush(), "the next flush")
    stage.expect_no_request("another flush was sent")
    stage.expect_working(frontend)


# Linux takes ERROR to an empty flush for a refusal too, so that whoever asked for it believes that his data is safe.
@FRONTEND.case("F-LIFE-002", "a flush answered ERROR is an error, and not the last one", "io/blkif.h, BLKIF_RSP_ERROR")
def failed_flush(stage: FrontendStage) -> None:
    frontend = stage.connect()
    flushing = frontend.flush()
    (request,) = stage.take()
    stage.ring.answer(request, -1)
    expect(stage.error(flushing, "the flush").errno == errno.EIO, "the error is another one")
    stage.serve(frontend.flush())
    expect([other.operation for other in stage.seen] == [request.operation], "the next flush is no request")
    stage.expect_working(frontend)


@FRONTEND.case("F-LIFE-003", "a barrier answered EOPNOTSUPP is a success, and the last one", _DEGRADE)
def refused_barrier(stage: FrontendStage) -> None:
    frontend = stage.connect({"feature-barrier": "1", "feature-flush-cache": "0"})
    flushing = frontend.flush()
    wait_for(lambda: stage.ring.pending > 0 or flushing.done(), "the flush to end or to become a request")
    require(stage.ring.pending, "this frontend sends no barriers")
    (request,) = stage.take()
    require(request.operation == BlkifOp.WRITE_BARRIER, "this frontend sends no barriers")
    stage.ring.answer(request, -2)
    stage.finish(flushing, "the flush")
    stage.finish(frontend.flush(), "the next flush")
    stage.expect_no_request("another barrier was sent")


@FRONTEND.case("F-LIFE-004", "a discard answered EOPNOTSUPP is the last one", _DEGRADE)
def refused_discard(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "feature-discard": "1"})
    require(frontend.offers_discard, "this frontend has no discard")
    discarding = frontend.discard(0, PAGE_SIZE)
    (request,) = stage.take()
    stage.ring.answer(request, -2)
    expect(stage.error(discarding, "the discard").errno == errno.EOPNOTSUPP, "the error is another one")
    frontend.discard(0, PAGE_SIZE)
    stage.expect_no_request("another discard was sent")
    stage.expect_working(frontend)


# Resize


def _resize(number: int, sectors: int, title: str) -> None:
    @FRONTEND.case(f"F-LIFE-{number:03}", title, _CHANGED)
    def resize(stage: FrontendStage) -> None:
        frontend = stage.connect()

        def both(store: Any) -> None:
            store.write(f"{stage.backend.path}/sectors", str(sectors))
            store.write(f"{stage.backend.path}/state", "4")

        stage.backend.store.transact(both)
        wait_for(lambda: frontend.size == sectors * SECTOR_SIZE, f"the frontend to tell its user of {sectors} sectors")
        expect(stage.backend.frontend_state is S.CONNECTED, "the frontend left Connected")
        stage.expect_working(frontend)


_resize(10, 2 * SECTORS, "a disk that grew is larger for its user")
_resize(11, SECTORS // 2, "a disk that shrank is smaller for its user")


# Closing


@FRONTEND.case("F-LIFE-020", "a frontend that leaves says Closing, then Closed", "xenbus: frontend's unbind")
def leaves(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.expect_working(frontend)
    stage.leave(frontend)


@FRONTEND.case("F-LIFE-021", "after a good end nothing is granted any more", "io/blkif.h, shutdown")
def nothing_granted(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "feature-persistent": "1"})
    keys = stage.backend.frontend_keys()
    stage.keep = keys.get("feature-persistent") == "1"
    stage.serve(*[frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(8)])
    refs = {segment.gref for segments in stage.segments_seen for segment in segments} | {int(keys["ring-ref"])}
    stage.leave(frontend)
    # A system may find only later that what it had given up is not mapped any more.
    wait_for(
        lambda: not any(stage.backend.is_granted(GrantRef(ref), for_writing=False) for ref in refs),
        "all references to be granted no more",
    )


def _closed_on(number: int, state: S, busy: bool) -> None:
    how = "with requests in flight" if busy else "while idle"

    @FRONTEND.case(f"F-LIFE-{number:03}", f"the backend's {state.label} {how} closes the frontend", _CHANGED)
    def closed_on(stage: FrontendStage) -> None:
        frontend = stage.connect()
        reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(40 * busy)]
        if busy:
            stage.take(8)
        stage.backend.switch(state)
        stage.backend.await_frontend(S.CLOSED, S.CLOSING)
        _all_end(stage, reading)
        stage.error(frontend.read(0, SECTOR_SIZE), "a read after the end")


def _all_end(stage: FrontendStage, futures: list[Future[bytes]]) -> None:
    for future in futures:
        stage.error(future, "a read without a backend")


_closed_on(22, S.CLOSING, busy=False)
_closed_on(23, S.CLOSING, busy=True)
_closed_on(24, S.CLOSED, busy=False)
_closed_on(25, S.CLOSED, busy=True)


@FRONTEND.case("F-LIFE-026", "a backend whose nodes are gone ends every operation", "libxl, forced detach")
def nodes_gone(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(40)]
    stage.take(8)
    stage.backend.store.rm(stage.backend.path)
    _all_end(stage, reading)


@FRONTEND.case("F-LIFE-027", "unplugged while responses arrive, every operation ends", "Linux 6.12.117, unplug race")
def unplugged(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(200)]
    for _ in range(20):
        _answer_one(stage)
    stage.backend.switch(S.CLOSING)
    _answer_until_it_closes(stage, reading)
    for future in reading:
        stage.end_of(future, "a read")
    stage.backend.await_frontend(S.CLOSED)


def _answer_one(stage: FrontendStage) -> None:
    request = stage.ring.take()
    stage.ring.answer(request, stage.carry_out(request))


def _answer_until_it_closes(stage: FrontendStage, reading: list[Future[bytes]]) -> None:
    """It may wait for what it has in flight. So slowly that it sees the backend's state before its user's last read."""
    deadline_s = time.monotonic() + patience_s()
    while stage.backend.frontend_state is S.CONNECTED and time.monotonic() < deadline_s:
        if all(future.done() for future in reading):
            return
        if stage.ring.pending:
            _answer_one(stage)
        time.sleep(0.002)


@FRONTEND.case("F-XSA-441", "the channel is closed while events arrive", "XSA-441, CVE-2023-34324")
def close_in_storm(stage: FrontendStage) -> None:
    frontend = stage.connect()
    stage.expect_working(frontend)
    closing = frontend.close()
    deadline_s = time.monotonic() + patience_s()
    while stage.backend.frontend_state is not S.CLOSED and time.monotonic() < deadline_s:
        stage.serve_once()  # it may flush first
        stage.ring.channel.notify()
        if stage.backend.frontend_state is S.CLOSING:
            stage.backend.switch(S.CLOSING)
    for _ in range(200):
        stage.ring.channel.notify()
    stage.let_go(closing)


@FRONTEND.case("F-XSA-391", "a storm of events without responses stalls nobody", "XSA-391, CVE-2021-28711")
def storm(stage: FrontendStage) -> None:
    frontend = stage.connect()
    for _ in range(5):
        reading = frontend.read(0, PAGE_SIZE)
        request = stage.ring.take()
        for _ in range(2000):
            stage.ring.channel.notify()
        stage.ring.answer(request, stage.carry_out(request))
        stage.finish(reading, "a read in a storm of events")


# Starting over


@FRONTEND.case("F-LIFE-030", "a closed frontend can be followed by another", "Linux xenbus_reset_frontend")
def followed(stage: FrontendStage) -> None:
    for _ in range(5):
        frontend = stage.connect()
        stage.expect_working(frontend)
        stage.leave(frontend)
        stage.begin_again()


@FRONTEND.case(
    "F-LIFE-031", "another connection may have other features", "Linux xen-blkfront.c, blkfront_gather_backend_features"
)
def other_features(stage: FrontendStage) -> None:
    for persistent in ("1", "0", "1"):
        frontend = stage.connect({**FLUSH, "feature-persistent": persistent})
        stage.keep = stage.backend.frontend_keys().get("feature-persistent") == persistent == "1"
        stage.expect_working(frontend)
        stage.leave(frontend)
        stage.begin_again()


def _recovery(number: int, title: str, before: dict[str, str], after: dict[str, str]) -> None:
    @FRONTEND.case(f"F-LIFE-{number:03}", f"a backend that comes back {title} gets what was in flight", _RECOVER)
    def recovery(stage: FrontendStage) -> None:
        frontend = stage.connect({**FLUSH, **before}, recover=True)
        stage.expect_working(frontend)
        writing = [frontend.write(n * PAGE_SIZE, bytes([n + 1]) * PAGE_SIZE) for n in range(40)]
        stage.take(10)
        stage.backend.disconnect()
        stage.backend.switch(S.CLOSING)
        stage.backend.await_frontend(S.CLOSED, S.INITIALISING)
        stage.backend.switch(S.CLOSED)
        _come_back(stage, {**FLUSH, **after})
        stage.serve(*writing)
        for n in range(40):
            page = stage.image[n * PAGE_SIZE : (n + 1) * PAGE_SIZE]
            expect(page == bytes([n + 1]) * PAGE_SIZE, f"write {n} is lost")
        _still_one(stage, frontend)


def _come_back(stage: FrontendStage, features: dict[str, str]) -> None:
    stage.backend.write(features)
    stage.backend.switch(S.INITWAIT)
    stage.backend.await_frontend(S.INITIALISED, S.CONNECTED)
    stage.backend.attach_rings()
    stage.backend.write({**features, **PROPERTIES})
    stage.backend.switch(S.CONNECTED)


def _still_one(stage: FrontendStage, frontend: FrontendUnderTest) -> None:
    stage.backend.await_frontend(S.CONNECTED)
    stage.expect_working(frontend)


_PERSISTENT = {"feature-persistent": "1"}
_INDIRECT = {"feature-max-indirect-segments": "32"}
_recovery(40, "as it was", {}, {})
_recovery(41, "without persistence", _PERSISTENT, {"feature-persistent": "0"})
_recovery(42, "with persistence", {}, _PERSISTENT)
_recovery(43, "without indirect requests", _INDIRECT, {"feature-max-indirect-segments": "0"})
