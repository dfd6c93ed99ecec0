"""How a request's data is lent to the backend: through pages of a pool, or by granting the caller's own pages.

    Bounce   copies between the caller's buffer and pages of a pool, whose grants the backend may keep mapped.
             All persistent connections do this, and any buffer that is not in the domain's memory.
    Direct   grants the very pages the buffer lies in, for as long as the request takes.

Both give segments to put on the ring, and take them back when the response is there. More than 11 do not fit a slot:
they stand in descriptor pages of the pool, and the slot names these (an indirect request).
"""

import contextlib
import dataclasses
from collections.abc import Sequence

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE, SECTOR_SIZE, Domid, GrantRef
from xenblk.blkif import SEGMENTS_PER_INDIRECT_PAGE, BlkifOp, BlkifSegment, pack_segments
from xenblk.errors import BlkifPeerError, GrantError, WouldBlockError
from xenblk.grants import GrantPool, GrantTable, PoolEntry
from xenblk.platform import Memory


def nr_indirect_pages(nr_segments: int) -> int:
    """Descriptor pages of a request of so many segments: none if they fit a slot."""
    return -(-nr_segments // SEGMENTS_PER_INDIRECT_PAGE) if nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST else 0


def request_pages(max_segments: int) -> int:
    """Segments and descriptor pages of the largest request."""
    nr_segments = max(max_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)
    return nr_segments + nr_indirect_pages(nr_segments)


@dataclasses.dataclass(eq=False, slots=True)
class Loan:
    """What one request lends: its segments, and the pool entries or the references behind them.

    `descriptors` are the pages that the segments stand in if they do not fit a slot.
    """

    segments: tuple[BlkifSegment, ...]
    entries: Sequence[PoolEntry] = ()
    refs: Sequence[GrantRef] = ()
    descriptors: Sequence[PoolEntry] = ()


class Lender:
    """Lends buffers to one backend; `persistent` and `max_segments` are what was negotiated for this connection.

    A backend that is not `trusted` is lent pages of the pool only, and sees nothing else of the domain's memory. So is
    what does not begin at a multiple of the disk's `sector_size`: each segment is a whole number of these.
    GrantError if not even one request can have all its pages granted.
    """

    def __init__(
        self,
        table: GrantTable,
        memory: Memory,
        pool: GrantPool,
        backend: Domid,
        persistent: bool,
        *,
        trusted: bool = True,
        max_segments: int = BLKIF_MAX_SEGMENTS_PER_REQUEST,
        sector_size: int = SECTOR_SIZE,
    ) -> None:
        self._table = table
        self._memory = memory
        self._pool = pool
        self._backend = backend
        self._persistent = persistent
        self._in_place = trusted and not persistent
        # Where a page that is granted first takes the place of another, nobody else may be using any part of it.
        self._direct_unit = sector_size if table.sees_mappings else PAGE_SIZE
        self._max_segments = max(max_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)
        pool.prepare(request_pages(max_segments))

    def longest_piece(self, op: BlkifOp, buffer: memoryview) -> int:
        """How many bytes from the start of a buffer one request can carry. There is no indirect barrier."""
        located = self._locate(buffer)
        most = BLKIF_MAX_SEGMENTS_PER_REQUEST if op == BlkifOp.WRITE_BARRIER else self._max_segments
        return most * PAGE_SIZE - (located[1] if located else 0)

    def lend(self, op: BlkifOp, buffer: memoryview) -> Loan:
        """Grant a piece of at most `longest_piece` bytes.

        WouldBlockError, and nothing is granted, if the pool or the table lacks any of what the whole request needs.
        """
        located = self._locate(buffer)
        if located is not None:
            with contextlib.suppress(WouldBlockError):  # the pool may have what the table has not
                return self._grant_in_place(*located, buffer.nbytes)
        return self._bounce(op, buffer)

    def _locate(self, buffer: memoryview) -> tuple[int, int] | None:
        located = self._memory.locate(buffer) if self._in_place else None
        if located is None or located[1] % self._direct_unit or buffer.nbytes % self._direct_unit:
            return None
        return located

    def _bounce(self, op: BlkifOp, buffer: memoryview) -> Loan:
        nr_pages = -(-buffer.nbytes // PAGE_SIZE)
        nr_indirect = nr_indirect_pages(nr_pages)
        taken = self._pool.take(nr_indirect + nr_pages)
        descriptors, entries = taken[:nr_indirect], taken[nr_indirect:]
        segments = []
        for start, entry in zip(range(0, buffer.nbytes, PAGE_SIZE), entries, strict=True):
            part = buffer[start : start + PAGE_SIZE]
            assert entry.gref is not None
            if op != BlkifOp.READ:
                entry.page.view[: part.nbytes] = part
            segments.append(BlkifSegment(entry.gref, 0, part.nbytes // SECTOR_SIZE - 1))
        return self._described(Loan(tuple(segments), entries=entries, descriptors=descriptors))

    def _described(self, loan: Loan) -> Loan:
        for i, entry in enumerate(loan.descriptors):
            start = i * SEGMENTS_PER_INDIRECT_PAGE
            data = pack_segments(loan.segments[start : start + SEGMENTS_PER_INDIRECT_PAGE])
            entry.page.view[: len(data)] = data
        return loan

    def _grant_in_place(self, frame: int, offset: int, nr_bytes: int) -> Loan:
        refs, descriptors = self._take_in_place(frame, -(-(offset + nr_bytes) // PAGE_SIZE))
        segments = []
        for ref in refs:
            part = min(nr_bytes, PAGE_SIZE - offset)
            segments.append(BlkifSegment(ref, offset // SECTOR_SIZE, (offset + part) // SECTOR_SIZE - 1))
            offset, nr_bytes = 0, nr_bytes - part
        return self._described(Loan(tuple(segments), refs=refs, descriptors=descriptors))

    def _take_in_place(self, frame: int, nr_pages: int) -> tuple[list[GrantRef], list[PoolEntry]]:
        descriptors = self._pool.take(nr_indirect_pages(nr_pages))
        try:
            return self._table.grant(self._backend, range(frame, frame + nr_pages)), descriptors
        except GrantError as error:
            for entry in descriptors:
                self._pool.put_back(entry)
            raise WouldBlockError(f"{nr_pages} grant references are needed: {error}") from error

    def take_back(self, op: BlkifOp, buffer: memoryview, loan: Loan) -> None:
        """End a loan after its response; a read's data is copied out whatever the status was, as Linux does.

        BlkifPeerError if the backend still maps what it had no leave to keep: that page cannot be used again.
        """
        kept = sum(self._pool.put_back(entry) for entry in loan.descriptors)
        for i, entry in enumerate(loan.entries):
            part = buffer[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]
            if op == BlkifOp.READ:
                part[:] = entry.page.view[: part.nbytes]
            kept += self._pool.put_back(entry)
        loan.refs = self._end_access(loan.refs)
        kept += len(loan.refs)
        if kept and not self._persistent:
            raise BlkifPeerError(f"the backend still maps {kept} pages of a request that it answered")

    def trim(self) -> int:
        """If grants are persistent, end those of idle pages that the backend let go of; how many that were."""
        return self._pool.trim() if self._persistent else 0

    @property
    def persistent_gnts_c(self) -> int:
        """Granted pages that are idle."""
        return self._pool.persistent_gnts_c

    def abandon(self, loan: Loan) -> None:
        """End a loan whose request is never answered, later if need be; pool pages are left to the pool's end."""
        for ref in self._end_access(loan.refs):
            self._table.end_access_later(ref)

    def _end_access(self, refs: Sequence[GrantRef]) -> list[GrantRef]:
        """Those that are mapped, and granted, still."""
        return [ref for ref in refs if not self._table.end_access(ref)]
