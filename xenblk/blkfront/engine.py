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

from xenblk.abi import SECTOR_SIZE
from xenblk.blkfront.bio import Bio, Piece
from xenblk.blkfront.lending import Lender, Loan
from xenblk.blkif import Abi, BlkifRequest, BlkifResponse, BlkifStatus
from xenblk.counters import Counters
from xenblk.errors import BlkifPeerError, PeerError, WouldBlockError
from xenblk.ring import FrontRing

_ERRNO: Final = {BlkifStatus.ERROR: errno.EIO, BlkifStatus.EOPNOTSUPP: errno.EOPNOTSUPP}


@dataclasses.dataclass(eq=False, slots=True)
class _Shadow:
    piece: Piece
    loan: Loan


class FrontEngine:
    """Drives one ring of one disk. The caller notifies the backend when `push` says so; one thread at a time."""

    def __init__(self, ring: FrontRing, abi: Abi, handle: int, lender: Lender, counters: Counters) -> None:
        self._ring = ring
        self._abi = abi
        self._handle = handle
        self._lender = lender
        self._counters = counters
        self._shadow: list[_Shadow | None] = [None] * ring.nr_ents
        self._free_ids = list(range(ring.nr_ents))[::-1]
        self._queue: collections.deque[Piece] = collections.deque()
        self._unpublished = 0
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
        bio.pieces_left = len(pieces)
        self._queue.extend(pieces)

    def _split(self, bio: Bio) -> list[Piece]:
        if bio.buffer is None:
            return [Piece(bio, bio.offset, None)]
        pieces = []
        start = 0
        while start < bio.buffer.nbytes:
            rest = bio.buffer[start:]
            part = rest[: self._lender.longest_piece(rest)]
            pieces.append(Piece(bio, bio.offset + start, part))
            start += part.nbytes
        return pieces

    def fill(self) -> None:
        """Move queued pieces to the ring while it has free slots and the domain free grants."""
        while self._queue and self._ring.free_slots:
            try:
                self._put(self._queue[0])
            except WouldBlockError:
                return
            self._queue.popleft()

    def _put(self, piece: Piece) -> None:
        loan = Loan(()) if piece.buffer is None else self._lender.lend(piece.bio.op, piece.buffer)
        number = self._free_ids.pop()
        self._shadow[number] = _Shadow(piece, loan)
        request = BlkifRequest(
            piece.bio.op, self._handle, number, piece.offset // SECTOR_SIZE, len(loan.segments), loan.segments
        )
        self._ring.put(self._abi.pack_request(request))
        self._unpublished += 1

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
        """Take the responses that are there; returns the bios that are done. PeerError: trust the backend no more.

        What was done before that is returned first, and the next call raises.
        """
        if self._fault is not None:
            raise self._fault
        done: list[Bio] = []
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

    def look_for(self) -> bool:
        """Nothing: this engine does not poll before it sleeps."""
        return False

    def must_look_again(self) -> bool:
        """Before sleeping: ask for an event at the next response; True if one is there already."""
        return self._fault is not None or self._ring.final_check()

    def _complete(self, response: BlkifResponse) -> Bio:
        shadow = self._shadow[response.id] if response.id < len(self._shadow) else None
        if shadow is None:
            raise BlkifPeerError(f"the backend answered request {response.id:#x}, which is not waiting for an answer")
        piece, bio = shadow.piece, shadow.piece.bio
        if response.operation != bio.op:
            raise BlkifPeerError(
                f"the backend answered operation {response.operation} to request {response.id}, whose is {int(bio.op)}"
            )
        if piece.buffer is not None:
            self._lender.take_back(bio.op, piece.buffer, shadow.loan)
        self._shadow[response.id] = None
        self._free_ids.append(response.id)
        self._settle(bio, response.status)
        return bio

    def _settle(self, bio: Bio, status: int) -> None:
        bio.pieces_left -= 1
        if status != BlkifStatus.OKAY:
            number = _ERRNO.get(BlkifStatus(status), errno.EIO) if status in (-1, -2) else errno.EIO
            bio.error = OSError(number, f"the backend answered status {status} to {bio.op.name} at {bio.offset}")

    def fail_all(self, error: OSError) -> list[Bio]:
        """Give up: every bio that is not done ends with `error`. What is lent stays lent until the pool is closed."""
        pieces = [shadow.piece for shadow in self._shadow if shadow is not None] + list(self._queue)
        self._queue.clear()
        bios = list(dict.fromkeys(piece.bio for piece in pieces))
        for bio in bios:
            bio.error = error
            bio.pieces_left = 0
        return bios

    def close(self) -> None:
        """End the grants of buffers that were lent in place and never answered for, as far as the backend lets go."""
        for shadow in self._shadow:
            if shadow is not None:
                self._lender.abandon(shadow.loan)
