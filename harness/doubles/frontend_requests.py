"""The requests of a frontend's double: pages that carry the data, segments that name them, direct or indirect."""

import collections
import dataclasses
import struct
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE, SECTOR_SIZE, GrantRef
from xenblk.blkif import (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BlkifOp,
    BlkifRequest,
    BlkifSegment,
    IndirectRequest,
    Request,
)
from xenblk.harness.wire.back_ring import effective_operation
from xenblk.harness.wire.frontend import GrantedPage, RawFrontend

_SEGMENT: Final = struct.Struct("<IBBxx")


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One request, the buffer that it is about, and the pages that it has granted: data first, then indirect ones."""

    request: Request
    buffer: memoryview
    data: list[GrantedPage]
    tables: list[GrantedPage]


class Requests:
    """Makes requests of at most `segments_max` pages; `persistent` keeps granted pages for the next ones."""

    def __init__(self, frontend: RawFrontend, handle: int) -> None:
        self._frontend = frontend
        self._handle = handle
        self._pool: collections.deque[GrantedPage] = collections.deque()
        self.persistent = False
        self.segments_max = BLKIF_MAX_SEGMENTS_PER_REQUEST

    def lend(self, operation: BlkifOp, number: int, sector: int, buffer: memoryview) -> Piece:
        """A request for `buffer`; its pages hold the data if it is a write."""
        pages = [self._page() for _ in range(0, buffer.nbytes, PAGE_SIZE)]
        segments = []
        for at, page in enumerate(pages):
            part = buffer[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
            if operation != BlkifOp.READ:
                page.view[: part.nbytes] = part
            segments.append(page.segment(0, part.nbytes // SECTOR_SIZE - 1))
        if len(segments) <= BLKIF_MAX_SEGMENTS_PER_REQUEST:
            request = BlkifRequest(operation, self._handle, number, sector, len(segments), tuple(segments))
            return Piece(request, buffer, pages, [])
        tables = self._tables(segments)
        refs = [table.ref for table in tables]
        refs += [GrantRef(0)] * (BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST - len(refs))
        indirect = IndirectRequest(operation, self._handle, number, sector, len(segments), tuple(refs))
        return Piece(indirect, buffer, pages, tables)

    def _tables(self, segments: list[BlkifSegment]) -> list[GrantedPage]:
        packed = b"".join(_SEGMENT.pack(s.gref, s.first_sect, s.last_sect) for s in segments)
        tables = []
        for at in range(0, len(packed), PAGE_SIZE):
            tables.append(self._page())
            part = packed[at : at + PAGE_SIZE]
            tables[-1].view[: len(part)] = part
        return tables

    def take_back(self, piece: Piece) -> bool:
        """The request is answered: copy what was read, keep or end its pages.

        False if one is still mapped though that was not negotiated; it stays granted then.
        """
        if effective_operation(piece.request) == BlkifOp.READ:
            for at, page in enumerate(piece.data):
                part = piece.buffer[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
                part[:] = page.view[: part.nbytes]
        return all([self._put_back(page) for page in (*piece.data, *piece.tables)])

    def _page(self) -> GrantedPage:
        return self._pool.popleft() if self._pool else self._frontend.page()

    def _put_back(self, page: GrantedPage) -> bool:
        if page.mapped and self.persistent:
            self._pool.appendleft(page)
            return True
        return self._frontend.release(page)
