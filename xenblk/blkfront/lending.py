"""How a request's data is lent to the backend: through pages of a pool, or by granting the caller's own pages.

    Bounce   copies between the caller's buffer and pages of a pool, whose grants the backend may keep mapped.
             All persistent connections do this, and any buffer that is not in the domain's memory.
    Direct   grants the very pages the buffer lies in, for as long as the request takes.

Both give segments to put on the ring, and take them back when the response is there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE, SECTOR_SIZE, Domid, GrantRef
from xenblk.blkif import BlkifOp, BlkifSegment
from xenblk.errors import BlkifPeerError, WouldBlockError
from xenblk.grants import GrantPool, GrantTable, PoolEntry
from xenblk.platform import Memory

BOUNCE_BYTES_MAX: Final = BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE


@dataclasses.dataclass(eq=False, slots=True)
class Loan:
    """What one request lends: its segments, and the pool entries or the references behind them."""

    segments: tuple[BlkifSegment, ...]
    entries: Sequence[PoolEntry] = ()
    refs: Sequence[GrantRef] = ()


class Lender:
    """Lends buffers to one backend; `persistent` is what was negotiated for this connection."""

    def __init__(self, table: GrantTable, memory: Memory, pool: GrantPool, backend: Domid, persistent: bool) -> None:
        self._table = table
        self._memory = memory
        self._pool = pool
        self._backend = backend
        self._persistent = persistent

    def longest_piece(self, buffer: memoryview) -> int:
        """How many bytes from the start of a buffer one request can carry."""
        located = self._locate(buffer)
        return BOUNCE_BYTES_MAX - (located[1] if located else 0)

    def lend(self, op: BlkifOp, buffer: memoryview) -> Loan:
        """Grant a piece of at most `longest_piece` bytes; WouldBlockError when the grant table is exhausted."""
        located = self._locate(buffer)
        if located is None:
            return self._bounce(op, buffer)
        return self._grant_in_place(*located, buffer.nbytes)

    def _locate(self, buffer: memoryview) -> tuple[int, int] | None:
        located = None if self._persistent else self._memory.locate(buffer)
        return located if located and located[1] % SECTOR_SIZE == 0 else None

    def _bounce(self, op: BlkifOp, buffer: memoryview) -> Loan:
        nr_pages = -(-buffer.nbytes // PAGE_SIZE)
        self._pool.reserve(nr_pages)
        entries, segments = [], []
        for start in range(0, buffer.nbytes, PAGE_SIZE):
            part = buffer[start : start + PAGE_SIZE]
            entry = self._pool.take()
            assert entry.gref is not None
            if op == BlkifOp.WRITE:
                entry.page.view[: part.nbytes] = part
            entries.append(entry)
            segments.append(BlkifSegment(entry.gref, 0, part.nbytes // SECTOR_SIZE - 1))
        return Loan(tuple(segments), entries=entries)

    def _grant_in_place(self, frame: int, offset: int, nr_bytes: int) -> Loan:
        nr_pages = -(-(offset + nr_bytes) // PAGE_SIZE)
        if self._table.free_count < nr_pages:
            raise WouldBlockError(f"{nr_pages} grant references are needed, {self._table.free_count} are free")
        refs, segments = [], []
        while nr_bytes > 0:
            part = min(nr_bytes, PAGE_SIZE - offset)
            ref = self._table.allocate()
            self._table.grant_access(ref, self._backend, frame)
            refs.append(ref)
            segments.append(BlkifSegment(ref, offset // SECTOR_SIZE, (offset + part) // SECTOR_SIZE - 1))
            frame, offset, nr_bytes = frame + 1, 0, nr_bytes - part
        return Loan(tuple(segments), refs=refs)

    def take_back(self, op: BlkifOp, buffer: memoryview, loan: Loan) -> None:
        """End a loan after its response; a read's data is copied out whatever the status was, as Linux does.

        BlkifPeerError if the backend still maps what it had no leave to keep: that page cannot be used again.
        """
        kept = 0
        for i, entry in enumerate(loan.entries):
            part = buffer[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]
            if op == BlkifOp.READ:
                part[:] = entry.page.view[: part.nbytes]
            kept += self._pool.put_back(entry)
        kept += self._end_access(loan.refs)
        if kept and not self._persistent:
            raise BlkifPeerError(f"the backend still maps {kept} pages of a request that it answered")

    def abandon(self, loan: Loan) -> None:
        """End a loan whose request is never answered; pool pages are left to the pool's end."""
        self._end_access(loan.refs)

    def _end_access(self, refs: Sequence[GrantRef]) -> int:
        """How many of them are still mapped: these stay granted and are never used again."""
        kept = 0
        for ref in refs:
            if self._table.end_access(ref):
                self._table.free(ref)
            else:
                kept += 1
        return kept
