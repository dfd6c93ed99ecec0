"""A ring as a backend by hand has it: the indexes and slots as they are in memory, and answers of any kind.

The index rules of io/ring.h are the case's to keep or to break: `take` copies the next slot, `put` writes any bytes
over the oldest unanswered one, `publish` stores any rsp_prod, `push` publishes and notifies in any case.
Requests are looked for by polling, so that a frontend that forgets to notify is seen, not waited for.
"""

import threading
from typing import Final

from xenblk.blkif import Abi, BlkifResponse, IndirectRequest, Request
from xenblk.harness.wire.deadline import wait_for
from xenblk.platform import EventChannel
from xenblk.ring.layout import ring_entries, ring_order

_U32: Final = 0xFFFFFFFF


class RawBackRing:
    """The backend's end of one ring: `memory` is all its pages, mapped. They must stay mapped while this is used."""

    def __init__(self, memory: memoryview, abi: Abi, channel: EventChannel) -> None:
        self.abi: Final = abi
        self.channel: Final = channel
        self.nr_pages: Final = memory.nbytes >> 12
        self.nr_ents: Final = ring_entries(ring_order(memory.nbytes), abi.entry_size)
        self._memory = memory
        self._words = memory[:16].cast("I")  # one aligned load or store for each index
        self.req_cons = self.rsp_prod_pvt = self.rsp_prod  # where the last backend of this ring left off
        self._fence = threading.Lock()

    # The shared indexes

    @property
    def req_prod(self) -> int:
        """As the frontend published it."""
        return self._words[0]

    @property
    def req_event(self) -> int:
        """At which request the frontend is to notify."""
        return self._words[1]

    @req_event.setter
    def req_event(self, index: int) -> None:
        self._words[1] = index & _U32

    @property
    def rsp_prod(self) -> int:
        """As it was published last."""
        return self._words[2]

    @property
    def rsp_event(self) -> int:
        """At which response the frontend wants an event."""
        return self._words[3]

    def header(self) -> tuple[int, int, int, int]:
        """req_prod, req_event, rsp_prod, rsp_event."""
        return self._words[0], self._words[1], self._words[2], self._words[3]

    def content(self) -> bytes:
        """All of the ring's memory."""
        return bytes(self._memory)

    def slot(self, index: int) -> memoryview:
        """The bytes of the slot of a free-running index."""
        start = 64 + (index % self.nr_ents) * self.abi.entry_size
        return self._memory[start : start + self.abi.entry_size]

    # Requests

    @property
    def pending(self) -> int:
        """Requests published and not taken."""
        return (self.req_prod - self.req_cons) & _U32

    @property
    def unanswered(self) -> int:
        """Requests taken and not answered."""
        return (self.req_cons - self.rsp_prod_pvt) & _U32

    def take_slot(self, timeout_s: float | None = None) -> bytes:
        """A copy of the next request's slot; DeadlineError if none comes."""
        wait_for(lambda: self.pending > 0, "a request on the ring", timeout_s)
        slot = bytes(self.slot(self.req_cons))
        self.req_cons = (self.req_cons + 1) & _U32
        return slot

    def take(self, timeout_s: float | None = None) -> Request:
        """The next request; DeadlineError if none comes."""
        return self.abi.parse_request(self.take_slot(timeout_s))

    def take_many(self, count: int, timeout_s: float | None = None) -> list[Request]:
        """So many requests, all of them unanswered."""
        return [self.take(timeout_s) for _ in range(count)]

    def ask_for_event(self) -> None:
        """Ask to be notified of the next request, as a backend does before it sleeps."""
        self.req_event = self.req_cons + 1
        self._full_fence()  # req_event is out before req_prod is read again; the frontend: req_prod, then req_event

    def _full_fence(self) -> None:
        # A lock that is taken is a locked instruction (x86) or an acquire and a release (arm64), with the interpreter's
        # own locks around it: no load passes the stores before it.
        with self._fence:
            pass

    # Responses

    def put(self, slot: bytes) -> None:
        """Write these bytes over the oldest unanswered slot; seen after `publish`."""
        self.slot(self.rsp_prod_pvt)[: len(slot)] = slot
        self.rsp_prod_pvt = (self.rsp_prod_pvt + 1) & _U32

    def publish(self, rsp_prod: int | None = None) -> bool:
        """Store rsp_prod: what was put, or any other number. True if the frontend's event index asks for an event."""
        old = self.rsp_prod
        new = self.rsp_prod_pvt if rsp_prod is None else rsp_prod & _U32
        self._words[2] = new
        self._full_fence()  # rsp_prod is out before rsp_event is read; the frontend: rsp_event, then rsp_prod
        return ((new - self.rsp_event) & _U32) < ((new - old) & _U32)

    def push(self) -> None:
        """Publish what was put, and notify in any case."""
        self.publish()
        self.channel.notify()

    def answer(
        self,
        request: Request,
        status: int = 0,
        *,
        number: int | None = None,
        operation: int | None = None,
        padding: int = 0,
        push: bool = True,
    ) -> None:
        """Answer `request`, honestly unless told another `number` (id) or `operation`; `padding` fills unused bytes."""
        response = BlkifResponse(
            request.id if number is None else number,
            effective_operation(request) if operation is None else operation,
            status,
        )
        self.put(self.padded(response, padding))
        if push:
            self.push()

    def padded(self, response: BlkifResponse, padding: int) -> bytes:
        """A whole slot whose bytes beside id, operation and status are `padding`."""
        packed = self.abi.pack_response(response)
        if padding == 0:
            return packed
        used = {*range(9), 10, 11}
        return bytes(byte if at in used else padding for at, byte in enumerate(packed))


def effective_operation(request: Request) -> int:
    """What a response to it says: of an indirect request the inner operation."""
    return request.indirect_op if isinstance(request, IndirectRequest) else request.operation
