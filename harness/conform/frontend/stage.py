"""The world of one case for frontends: a guest with one disk, the frontend under test in it, a backend by hand."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from xenblk.blkif import BlkifOp, BlkifSegment, BlkifStatus, DiscardRequest, IndirectRequest, Request
from xenblk.harness.conform.case import Case, Registry, expect, fail, require
from xenblk.harness.conform.frontend.subject import FrontendKind, FrontendUnderTest, Guest
from xenblk.harness.conform.xen import Xen
from xenblk.harness.wire.back_ring import RawBackRing, effective_operation
from xenblk.harness.wire.backend import RawBackend, write_nodes
from xenblk.harness.wire.deadline import patience_s, wait_for
from xenblk.platform import Platform
from xenblk.xenbus import XenbusState

T = TypeVar("T")

XVDA: Final = 51712
SECTORS: Final = 8192
FLUSH: Final = {"feature-flush-cache": "1"}
PERSISTENT: Final = {"feature-persistent": "1"}
PROPERTIES: Final = {"sectors": str(SECTORS), "sector-size": "512", "physical-sector-size": "512", "info": "0"}
GREFS_RESERVED: Final = 8


class FrontendStage:
    """What a case has at hand. `image` is the disk as an honest backend serves it."""

    def __init__(self, kind: FrontendKind, xen: Xen, host: Platform, guest: Guest) -> None:
        self.kind: Final = kind
        self._xen = xen
        self._guest = guest
        self.backend: Final = RawBackend(host, guest.domid, XVDA)
        self.image: Final = bytearray(SECTORS * SECTOR_SIZE)
        self.seen: Final[list[Request]] = []
        self.segments_seen: Final[list[list[BlkifSegment]]] = []
        """What was served, and the segments of each."""
        self.keep = False
        """Whether `serve` keeps the frontend's pages mapped."""
        self.max_indirect_segments = 0
        """As the backend offered it."""
        self._frontends: list[FrontendUnderTest] = []

    # Handshake

    def start(self, **options: Any) -> FrontendUnderTest:
        """The frontend under test, not connected; the case is not for it if it does not know one of the options."""
        missing = set(options) - self.kind.options
        require(not missing, f"this frontend has no option {', '.join(sorted(missing))}")
        frontend = self.kind.start(self._guest, XVDA, options)
        self._frontends.append(frontend)
        return frontend

    def connect(
        self, features: Mapping[str, str] = FLUSH, properties: Mapping[str, str] = PROPERTIES, **options: Any
    ) -> FrontendUnderTest:
        """A frontend that is connected after an honest handshake; `features` stand before InitWait."""
        frontend = self.start(**options)
        self.go_on(frontend.connect(), features, properties)
        return frontend

    def go_on(
        self,
        connecting: Future[None],
        features: Mapping[str, str] = FLUSH,
        properties: Mapping[str, str] = PROPERTIES,
    ) -> None:
        """The backend's part of an honest handshake with a frontend that is connecting."""
        self.offer(features)
        self.backend.attach_rings()
        self.backend.write({**features, **PROPERTIES, **properties})
        self.backend.switch(XenbusState.CONNECTED)
        self.finish_connecting(connecting)
        self.backend.await_frontend(XenbusState.CONNECTED)

    def finish_connecting(self, connecting: Future[None]) -> None:
        """The last part of a handshake; the case fails if that takes too long or is an error."""
        error = self.end_of_connecting(connecting)
        expect(error is None, f"connecting failed: {error}")

    def end_of_connecting(self, connecting: Future[None]) -> BaseException | None:
        """The error with which it ended, None if all went well; the case fails if it takes too long.

        The system above a driver may read the disk first, for partitions: that is served, and not seen.
        """
        self.serve_until_done(connecting)
        self.seen.clear()
        self.segments_seen.clear()
        return connecting.exception()

    def offer(self, features: Mapping[str, str]) -> None:
        """Go to InitWait with these features, and wait for the frontend's ring."""
        self.max_indirect_segments = int(features.get("feature-max-indirect-segments", "0"))
        self.backend.write(features)
        self.backend.switch(XenbusState.INITWAIT)
        self.backend.await_frontend(XenbusState.INITIALISED, XenbusState.CONNECTED)

    def set_up(self, frontend: FrontendUnderTest, features: Mapping[str, str] = FLUSH) -> Future[None]:
        """The handshake up to the frontend's ring."""
        connecting = frontend.connect()
        self.offer(features)
        return connecting

    def finish(self, future: Future[T], what: str) -> T:
        """What the frontend's user gets; the case fails if that takes too long or is an error."""
        error = self.end_of(future, what)
        expect(error is None, f"{what} failed: {error}")
        return future.result()

    def error(self, future: Future[Any], what: str) -> OSError:
        """The error that the frontend's user gets; the case fails if there is none, or it takes too long."""
        error = self.end_of(future, what)
        if not isinstance(error, OSError):
            fail(f"{what} succeeded" if error is None else f"{what} ended with {type(error).__name__}: {error}")
        return error

    def end_of(self, future: Future[Any], what: str) -> BaseException | None:
        """The error with which it ended, None if all went well; the case fails if it takes too long."""
        try:
            return future.exception(patience_s())
        except TimeoutError:
            fail(f"{what} did not end within {patience_s():g} s")

    # Serving

    def serve(self, *futures: Future[Any]) -> None:
        """Be an honest backend until all of these are done; the case fails if one ends in an error, or none comes."""
        self.serve_until_done(*futures)
        for future in futures:
            self.finish(future, "an operation")

    def serve_until_done(self, *futures: Future[Any]) -> None:
        """Be an honest backend until all of these are done, whatever their end is."""
        deadline_s = time.monotonic() + patience_s()
        while not all(future.done() for future in futures):
            expect(time.monotonic() < deadline_s, f"operations did not end within {patience_s():g} s of honest answers")
            if not self.serve_once():
                time.sleep(0.0002)

    def serve_once(self) -> int:
        """Answer what is on the rings; how many requests that were."""
        count = 0
        for ring in self.backend.rings:
            while ring.pending:
                request = ring.take()
                ring.answer(request, self.carry_out(request), push=False)
                ring.push()
                count += 1
        return count

    def carry_out(self, request: Request) -> BlkifStatus:
        """Do an honest backend's part of a request, and hold the request to its form; the status to answer."""
        segments = self.check(request)
        self.seen.append(request)
        self.segments_seen.append(segments)
        operation = effective_operation(request)
        start = request.sector_number * SECTOR_SIZE
        if isinstance(request, DiscardRequest):
            self.image[start : start + request.nr_sectors * SECTOR_SIZE] = bytes(request.nr_sectors * SECTOR_SIZE)
        elif operation in (BlkifOp.WRITE, BlkifOp.WRITE_BARRIER):
            data = self.backend.gather(segments, self.keep)
            self.image[start : start + len(data)] = data
        elif operation == BlkifOp.READ:
            nr_bytes = nr_sectors(segments) * SECTOR_SIZE
            self.backend.scatter(segments, bytes(self.image[start : start + nr_bytes]), self.keep)
        return BlkifStatus.OKAY

    def check(self, request: Request) -> list[BlkifSegment]:
        """The segments of a request that is as it must be; the case fails for any other."""
        expect(request.operation in [*BlkifOp], f"operation {request.operation} is none of blkif's")
        expect(request.handle == XVDA & 0xFFFF, f"`handle` is {request.handle}, not the device's {XVDA}")
        if isinstance(request, DiscardRequest):
            nr = request.nr_sectors
            expect(nr > 0, "a discard of no sectors")
        else:
            self._check_count(request)
            segments = list(self.backend.segments(request, self.keep))
            for segment in segments:
                _check_segment(segment)
            nr = nr_sectors(segments)
        end = request.sector_number + nr
        expect(nr == 0 or end <= len(self.image) // SECTOR_SIZE, f"the request ends at sector {end}, beyond the disk")
        return [] if isinstance(request, DiscardRequest) else segments

    def _check_count(self, request: Request) -> None:
        assert not isinstance(request, DiscardRequest)
        count = request.nr_segments
        if isinstance(request, IndirectRequest):
            bound = self.max_indirect_segments
            expect(request.indirect_op in (0, 1), f"the indirect operation is {request.indirect_op}, not read or write")
            expect(0 < count <= bound, f"an indirect request has {count} segments; at most {bound} were offered")
        else:
            expect(count <= 11, f"a request has {count} segments; 11 is the most")
            expect(count or request.operation in (2, 3), "a read or write of no segments")

    def take(self, count: int = 1) -> list[Request]:
        """The next requests of the first ring, each held to its form, not answered."""
        self.require_many(count)
        requests = self.backend.ring.take_many(count)
        for request in requests:
            self.check(request)
        return requests

    def require_many(self, count: int) -> None:
        """The case has so many operations in flight."""
        require(count == 1 or not self.kind.one_at_a_time, "this frontend has one operation in flight at a time")

    @property
    def ring(self) -> RawBackRing:
        """The first ring."""
        return self.backend.ring

    def wait_quietly(self) -> None:
        """Wait as long as nothing may happen before a case believes that nothing does."""
        time.sleep(self.kind.quiet_s)

    def expect_no_request(self, why: str) -> None:
        """The case fails if a request comes while nothing may happen."""
        self.wait_quietly()
        expect(not any(ring.pending for ring in self.backend.rings), why)

    def expect_working(self, frontend: FrontendUnderTest) -> None:
        """A write and a read of it go through the ring."""
        data = bytes([len(self.seen) & 0xFF | 1]) * PAGE_SIZE
        self.serve(frontend.write(8 * PAGE_SIZE, data))
        read = frontend.read(8 * PAGE_SIZE, PAGE_SIZE)
        self.serve(read)
        expect(read.result() == data, "what was read is not what was written")

    def expect_disabled(self, frontend: FrontendUnderTest) -> None:
        """The frontend trusts this backend no more: operations fail and nothing is put on the ring."""
        before = self.ring.req_prod
        self.error(frontend.read(0, SECTOR_SIZE), "a read after the backend broke the protocol")
        expect(self.ring.req_prod == before, "a request was sent to a backend that broke the protocol")

    def leave(self, frontend: FrontendUnderTest) -> None:
        """The frontend closes, and an honest backend with it; one that then wants to start over is waited for."""
        closing = frontend.close()
        wait_for(self._is_closing, "the frontend to be Closing")
        self.backend.switch(XenbusState.CLOSING)
        self.backend.await_frontend(XenbusState.CLOSED)
        self.backend.disconnect()
        self.let_go(closing)

    def _is_closing(self) -> bool:
        self.serve_once()  # it may flush first
        return self.backend.frontend_state in (XenbusState.CLOSING, XenbusState.CLOSED)

    def let_go(self, closing: Future[None]) -> None:
        """The backend's last step when the frontend closes, and another first one if it is to start over."""
        self.backend.switch(XenbusState.CLOSED)
        wait_for(lambda: closing.done() or self.backend.frontend_state is XenbusState.INITIALISING, "closing to end")
        if not closing.done():
            self.backend.switch(XenbusState.INITWAIT)
        self.finish(closing, "closing")

    def begin_again(self) -> None:
        """The nodes as after a good end: both ends start over, nothing of the old connection is left to be read."""
        self.keep = False
        if self.kind.needs_new_nodes:
            self._end_frontends()
            self._xen.attach(self._guest.domid, XVDA, self.kind.needs, {})
            return
        keys = ("ring-ref", "event-channel", "protocol", "feature-persistent")
        self.backend.store.transact(lambda store: write_nodes(store, self.backend.frontend_path, dict.fromkeys(keys)))
        self.backend.store.write(f"{self.backend.frontend_path}/state", str(int(XenbusState.INITIALISING)))
        self.backend.switch(XenbusState.INITIALISING)

    def close(self) -> None:
        """End the frontend, then the backend and its nodes."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.backend.close)
            stack.callback(self.backend.disconnect)
            stack.callback(self._end_frontends)

    def _end_frontends(self) -> None:
        with contextlib.ExitStack() as stack:
            while self._frontends:
                stack.callback(self._frontends.pop().stop)
            stack.callback(self._xen.remove, self._guest.domid, XVDA)


def _check_segment(segment: BlkifSegment) -> None:
    first, last = segment.first_sect, segment.last_sect
    expect(first <= last < SECTORS_PER_PAGE, f"a segment has sectors {first} to {last} of a page of 8")
    expect(segment.gref >= GREFS_RESERVED, f"reference {segment.gref} is one of Xen's own")


def nr_sectors(segments: list[BlkifSegment]) -> int:
    """Sectors of a request's data."""
    return sum(segment.last_sect - segment.first_sect + 1 for segment in segments)


class FrontendLab:
    """Makes stages for one frontend in one Xen, one after the other; nobody else serves disks there.

    `host` is domain 0's platform, the caller's to close. `guest` gives each case the domain that it has a disk for.
    """

    def __init__(
        self,
        kind: FrontendKind,
        xen: Xen,
        host: Platform,
        guest: Callable[[], contextlib.AbstractContextManager[Guest]],
    ) -> None:
        self._kind = kind
        self._xen = xen
        self._host = host
        self._guest = guest

    @contextlib.contextmanager
    def stage(self, _case: Case[FrontendStage]) -> Iterator[FrontendStage]:
        """A guest with one disk, which is gone when the block ends."""
        with self._guest() as guest:
            self._xen.attach(guest.domid, XVDA, self._kind.needs, {})
            stage = FrontendStage(self._kind, self._xen, self._host, guest)
            try:
                yield stage
            finally:
                stage.close()


FRONTEND: Final[Registry[FrontendStage]] = Registry()
"""The cases for frontends."""
