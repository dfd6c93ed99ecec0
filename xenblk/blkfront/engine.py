"""The life of a request, from a bio to the ring and back: the readable specification of the frontend's data path.

    bio --split--> pieces --lend pages--> request --put--> ring slot  --push--> backend
                                                                                   |
    bio done <--take pages back-- check the private copy <--consume-- ring slot <--+

A `shadow` entry remembers each request that is on the ring; its index is the request's id. A response is believed only
if it answers a request that is waiting, with the operation that was sent (Linux's xen-blkfront.c, `blkif_interrupt`);
anything else is a backend that cannot be trusted with another request.
"""

import collections
import dataclasses
import errno
from typing import Final

from xenblk.abi import SECTOR_SIZE, GrantRef
from xenblk.blkfront.bio import Bio, Piece
from xenblk.blkfront.features import Features
from xenblk.blkfront.lending import Lender, Loan
from xenblk.blkif import (
    BLKIF_DISCARD_SECURE,
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifStatus,
    DiscardRequest,
    IndirectRequest,
    Request,
)
from xenblk.counters import Counters
from xenblk.errors import BlkifPeerError, PeerError, WouldBlockError
from xenblk.ring import FrontRing

RECLAIM_EVERY_NS: Final = 10 * 10**9
"""How often, at most, the grants of idle pages are looked at (xen-blkfront.c, `blkfront_delay_work`)."""

_ERRNO: Final = {BlkifStatus.ERROR: errno.EIO, BlkifStatus.EOPNOTSUPP: errno.EOPNOTSUPP}


@dataclasses.dataclass(eq=False, slots=True)
class _Shadow:
    piece: Piece
    loan: Loan
    op: BlkifOp
    """What the answer must name: of an indirect request the inner one."""
    order: int
    """Requests put before it."""


class FrontEngine:
    """Drives one ring of one disk. The caller notifies the backend when `push` says so; one thread at a time.

    `features` is what the backend offers; the engine withdraws what it refuses.
    """

    def __init__(
        self,
        ring: FrontRing,
        abi: Abi,
        handle: int,
        lender: Lender,
        counters: Counters,
        features: Features | None = None,
    ) -> None:
        self._ring = ring
        self._abi = abi
        self._handle = handle
        self._lender = lender
        self._counters = counters
        self.features = Features() if features is None else features
        self._shadow: list[_Shadow | None] = [None] * ring.nr_ents
        self._free_ids = list(range(ring.nr_ents))[::-1]
        self._queue: collections.deque[Piece] = collections.deque()
        self._unanswered: list[Loan] = []
        self._nr_put = 0
        self._unpublished = 0
        self._may_fill = False
        self._reclaim_at_ns = 0
        self._fault: PeerError | None = None

    @property
    def in_flight(self) -> int:
        """Requests on the ring that are not answered."""
        return self._ring.nr_ents - len(self._free_ids)

    @property
    def busy(self) -> bool:
        """Whether any bio is not done."""
        return bool(self._queue) or self.in_flight > 0

    def submit(self, bio: Bio) -> None:
        """Queue a bio; `fill` puts it on the ring as room comes."""
        pieces = self._split(bio)
        bio.error = None
        bio.pieces_left = len(pieces)
        self._queue.extend(pieces)

    def _split(self, bio: Bio) -> list[Piece]:
        if bio.buffer is None:
            return [Piece(bio, bio.offset, None)]
        pieces = []
        start = 0
        while start < bio.buffer.nbytes:
            rest = bio.buffer[start:]
            part = rest[: self._lender.longest_piece(bio.op, rest)]
            pieces.append(Piece(bio, bio.offset + start, part))
            start += part.nbytes
        return pieces

    def fill(self) -> None:
        """Move queued pieces to the ring while it has free slots and the domain free grants.

        What is done without a request waits for `collect`.
        """
        self._may_fill = False
        while self._queue and self._ring.free_slots and (op := self._sent_as(self._queue[0])) is not None:
            try:
                self._put(self._queue[0], op)
            except WouldBlockError:
                return
            self._queue.popleft()

    def _sent_as(self, piece: Piece) -> BlkifOp | None:
        """The operation that a piece's request asks for; None if its bio is done without one."""
        bio, offered = piece.bio, self.features
        if bio.op <= BlkifOp.WRITE or piece.offset != bio.offset:  # what was begun goes on as it was
            return bio.op
        if bio.op == BlkifOp.DISCARD:
            return bio.op if (offered.discard_secure if bio.secure else offered.discard) else None
        if bio.op == BlkifOp.FLUSH_DISKCACHE and offered.flush_cache:
            return bio.op
        return BlkifOp.WRITE_BARRIER if offered.barrier else None

    def _put(self, piece: Piece, op: BlkifOp) -> None:
        loan = Loan(()) if piece.buffer is None else self._lender.lend(op, piece.buffer)
        number = self._free_ids.pop()
        self._shadow[number] = _Shadow(piece, loan, op, self._nr_put)
        self._ring.put(self._abi.pack_request(self._request(piece, loan, op, number)))
        self._nr_put += 1
        self._unpublished += 1

    def _request(self, piece: Piece, loan: Loan, op: BlkifOp, number: int) -> Request:
        sector, count = piece.offset // SECTOR_SIZE, len(loan.segments)
        if op == BlkifOp.DISCARD:
            flag = BLKIF_DISCARD_SECURE if piece.bio.secure else 0
            return DiscardRequest(self._handle, number, sector, piece.bio.nr_bytes // SECTOR_SIZE, flag)
        if loan.descriptors:
            refs = [GrantRef(0)] * BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST
            for i, entry in enumerate(loan.descriptors):
                assert entry.gref is not None
                refs[i] = entry.gref
            return IndirectRequest(op, self._handle, number, sector, count, tuple(refs))
        return BlkifRequest(op, self._handle, number, sector, count, loan.segments)

    def push(self) -> bool:
        """Publish what `fill` put on the ring; True if the backend must be notified."""
        if not self._unpublished:
            return False
        self._unpublished = 0
        notify = self._ring.push()
        if notify:
            self._counters.notify_sent += 1
        else:
            self._counters.notify_held += 1
        return notify

    def collect(self) -> list[Bio]:
        """Take the responses that are there; returns the bios that are done, those that needed none too.

        PeerError: trust the backend no more.

        What was done before that is returned first, and the next call raises.
        """
        if self._fault is not None:
            raise self._fault
        done = self._collect_unsent()
        try:
            while (slot := self._ring.consume()) is not None:
                bio = self._complete(self._abi.parse_response(slot))
                if bio.pieces_left == 0:
                    done.append(bio)
        except PeerError as e:
            self._fault = e
            if not done:
                raise
        return done

    def _collect_unsent(self) -> list[Bio]:
        done = []
        while self._queue and self._sent_as(self._queue[0]) is None:
            bio = self._queue[0].bio
            while self._queue and self._queue[0].bio is bio:
                self._queue.popleft()
            if bio.op != BlkifOp.FLUSH_DISKCACHE:
                bio.error = OSError(errno.EOPNOTSUPP, f"the backend does not offer {bio.op.name}")
            bio.pieces_left = 0
            done.append(bio)
            self._may_fill = True
        return done

    def look_for(self) -> bool:
        """Nothing: this engine does not poll before it sleeps."""
        return False

    def must_look_again(self) -> bool:
        """Before sleeping: ask for an event at the next response.

        True if there is one already, or if responses made room for what is queued.
        """
        return self._fault is not None or (self._may_fill and bool(self._queue)) or self._ring.final_check()

    def _complete(self, response: BlkifResponse) -> Bio:
        shadow = self._shadow[response.id] if response.id < len(self._shadow) else None
        if shadow is None:
            raise BlkifPeerError(f"the backend answered request {response.id:#x}, which is not waiting for an answer")
        piece, bio = shadow.piece, shadow.piece.bio
        if response.operation != shadow.op:
            raise BlkifPeerError(
                f"the backend answered operation {response.operation} to request {response.id}, "
                f"whose is {int(shadow.op)}"
            )
        if piece.buffer is not None:
            self._lender.take_back(shadow.op, piece.buffer, shadow.loan)
        self._shadow[response.id] = None
        self._free_ids.append(response.id)
        self._may_fill = True
        if self._is_flush_refused(shadow, response.status):
            if shadow.op == BlkifOp.FLUSH_DISKCACHE and self.features.barrier:
                self._queue.appendleft(piece)
                return bio
            self._settle(bio, BlkifStatus.OKAY)
        else:
            self._settle(bio, response.status)
        return bio

    def _is_flush_refused(self, shadow: _Shadow, status: int) -> bool:
        """Withdraw what the backend refuses; as Linux takes it, a refused flush is no failure."""
        # Linux takes ERROR to a flush for a refusal as well. But that is how a failed fsync is answered, and whoever
        # asked for it must not believe that his data is safe.
        if status != BlkifStatus.EOPNOTSUPP or shadow.op <= BlkifOp.WRITE:
            return False
        if shadow.op == BlkifOp.DISCARD:
            self.features.withdraw("discard", "discard_secure")
            return False
        self.features.withdraw("barrier" if shadow.op == BlkifOp.WRITE_BARRIER else "flush_cache")
        return not shadow.loan.segments

    def _settle(self, bio: Bio, status: int) -> None:
        bio.pieces_left -= 1
        if status != BlkifStatus.OKAY:
            number = _ERRNO.get(BlkifStatus(status), errno.EIO) if status in (-1, -2) else errno.EIO
            bio.error = OSError(number, f"the backend answered status {status} to {bio.op.name} at {bio.offset}")

    def reclaim(self, now_ns: int) -> int:
        """While grants are persistent, at most every 10 s: end those of idle pages that the backend unmapped.

        Returns how many. `now_ns` is any clock that does not run backwards.
        """
        if now_ns < self._reclaim_at_ns:
            return 0
        self._reclaim_at_ns = now_ns + RECLAIM_EVERY_NS
        return self._lender.trim()

    @property
    def persistent_gnts_c(self) -> int:
        """Granted pages that wait in the pool for the next request."""
        return self._lender.persistent_gnts_c

    def take_unfinished(self) -> list[Bio]:
        """Give back every bio that is not done, in the order of their submission, to be submitted to another engine.

        What is half done is done again whole. What is lent stays lent until `close`; the engine is not used any more.
        """
        waiting = sorted((shadow for shadow in self._shadow if shadow is not None), key=lambda shadow: shadow.order)
        queued = dict.fromkeys(piece.bio for piece in self._queue)
        sent = dict.fromkeys(shadow.piece.bio for shadow in waiting if shadow.piece.bio not in queued)
        self._unanswered += [shadow.loan for shadow in waiting]
        self._shadow = [None] * len(self._shadow)
        self._queue.clear()
        return [*sent, *queued]

    def fail_all(self, error: OSError) -> list[Bio]:
        """Give up: as `take_unfinished`, and each of them ends with `error`."""
        bios = self.take_unfinished()
        for bio in bios:
            bio.error = error
            bio.pieces_left = 0
        return bios

    def close(self) -> None:
        """End the grants of buffers that were lent in place and never answered for, as far as the backend lets go."""
        self.take_unfinished()
        for loan in self._unanswered:
            self._lender.abandon(loan)
        self._unanswered.clear()
