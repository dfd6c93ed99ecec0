"""What a double's user asked for, on its way through the rings of a frontend: several operations at a time."""

import collections
import errno
import itertools
import os
from collections.abc import Callable
from typing import Final

from xenblk.blkif import BlkifOp, BlkifResponse, BlkifStatus
from xenblk.harness.doubles.frontend_quirks import FrontendQuirks
from xenblk.harness.doubles.frontend_requests import Piece, Requests
from xenblk.harness.wire.back_ring import effective_operation
from xenblk.harness.wire.ring import U32, RawRing

_POINTER: Final = 0xFFFF_8880_0000_0000
_POINTER_STEP: Final = 192
_FLUSHES: Final = (BlkifOp.FLUSH_DISKCACHE, BlkifOp.WRITE_BARRIER)

MakePiece = Callable[[int], Piece]
"""Makes the request of this id."""


class Operation:
    """One call of the user's: done when all its requests are answered. `data` is what was read."""

    def __init__(self, nr_bytes: int = 0) -> None:
        self.data: Final = bytearray(nr_bytes)
        self.error: OSError | None = None
        self.requests_left = 0

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.requests_left == 0

    def fail(self, number: int, why: str | None = None) -> "Operation":
        """It has failed; requests of it that are on their way count on."""
        self.error = OSError(number, why or os.strerror(number))
        return self


class Queues:
    """The rings of one connection, what waits for a free slot, and what is in flight. Calls come from one thread."""

    def __init__(self, quirks: FrontendQuirks, requests: Requests, rings: list[RawRing]) -> None:
        self.rings: Final = rings
        self.withdrawn: Final[set[BlkifOp]] = set()
        """Operations that the backend answered in a way that made them the last of their kind."""
        self.broken = False
        """The backend sent what cannot be, and this frontend looks."""
        self._quirks = quirks
        self._requests = requests
        self._waiting: collections.deque[tuple[Operation, MakePiece]] = collections.deque()
        self._in_flight: list[dict[int, tuple[Operation, Piece]]] = [{} for _ in rings]
        self._free_ids = [list(range(ring.nr_ents))[::-1] for ring in rings]
        self._pointers = itertools.count(_POINTER, _POINTER_STEP)
        self._turns = itertools.cycle(range(len(rings)))

    def add(self, operation: Operation, make: MakePiece) -> None:
        """One more request of an operation; `poll` sends it."""
        operation.requests_left += 1
        self._waiting.append((operation, make))

    @property
    def in_flight(self) -> int:
        """Requests that are not answered."""
        return sum(len(requests) for requests in self._in_flight)

    def fail_waiting(self) -> None:
        """What was not sent will not be."""
        while self._waiting:
            operation, _make = self._waiting.popleft()
            operation.requests_left -= 1
            operation.fail(errno.EIO)

    def poll(self) -> None:
        """Take what was answered, send what waits."""
        if self.broken:
            return
        for at, ring in enumerate(self.rings):
            self._receive(at, ring)
        self._send()

    def _send(self) -> None:
        room = 1 - self.in_flight if self._quirks.one_at_a_time else U32
        while self._waiting and room > 0 and not self.broken:
            at = next((at for at in self._rings_in_turn() if self._has_room(at)), None)
            if at is None:
                break
            operation, make = self._waiting.popleft()
            number = next(self._pointers) if self._quirks.pointer_ids else self._free_ids[at].pop()
            piece = make(number)
            self._in_flight[at][number] = operation, piece
            self.rings[at].put(self.rings[at].abi.pack_request(piece.request))
            room -= 1
        for ring in self.rings:
            if ring.req_prod != ring.req_prod_pvt:
                ring.push()

    def _has_room(self, at: int) -> bool:
        return self.rings[at].free_slots > 0 and (self._quirks.pointer_ids or bool(self._free_ids[at]))

    def _rings_in_turn(self) -> list[int]:
        return [next(self._turns) for _ in self.rings]

    def _receive(self, at: int, ring: RawRing) -> None:
        count = ring.responses_waiting
        if count > ring.nr_ents and self._quirks.checks_responses:
            self.broken = True
            return
        for index in range(min(count, ring.nr_ents)):
            self._complete(at, ring.abi.parse_response(ring.slot(ring.rsp_cons + index)))
            if self.broken:
                return
        ring.rsp_cons = (ring.rsp_cons + count) & U32
        ring.rsp_event = ring.rsp_cons + 1  # what comes before the backend sees this is seen by the next poll

    def _complete(self, at: int, answer: BlkifResponse) -> None:
        operation, piece = self._in_flight[at].get(answer.id, (None, None))
        wrong = piece is None or answer.operation != effective_operation(piece.request)
        if wrong and self._quirks.checks_responses:
            self.broken = True
        if operation is None or piece is None or self.broken:
            return  # others look for a request where this id points to
        free = self._requests.take_back(piece)
        if not free and self._quirks.checks_responses:
            self.broken = True
            return
        del self._in_flight[at][answer.id]
        if not self._quirks.pointer_ids:
            self._free_ids[at].append(answer.id)
        operation.requests_left -= 1
        if answer.status != BlkifStatus.OKAY:
            self._failed(operation, BlkifOp(piece.request.operation), answer.status)

    def _failed(self, operation: Operation, op: BlkifOp, status: int) -> None:
        quirks, unsupported = self._quirks, status == BlkifStatus.EOPNOTSUPP
        if op in _FLUSHES and status in quirks.flush_withdrawn_by:
            self.withdrawn.add(op)
            return
        if op == BlkifOp.DISCARD and unsupported:
            self.withdrawn.add(op)
        if not ((op in _FLUSHES and quirks.flush_never_fails) or (unsupported and quirks.unsupported_is_done)):
            operation.fail(errno.EOPNOTSUPP if unsupported else errno.EIO)
