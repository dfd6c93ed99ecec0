"""What a double of a known backend answers to a request: its checks, in its order, and the data moved."""

from collections.abc import Sequence

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus, DiscardRequest, IndirectRequest, Request
from xenblk.disk import Disk
from xenblk.errors import GrantError
from xenblk.harness.doubles.backend_quirks import BackendQuirks
from xenblk.harness.wire.back_ring import effective_operation
from xenblk.harness.wire.backend import RawBackend

OKAY, ERROR = BlkifStatus.OKAY, BlkifStatus.ERROR
_FLUSHES = (BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE)


class RequestPath:
    """Carries out requests of one connection on `disk`; `persistent` is what was negotiated."""

    def __init__(
        self, quirks: BackendQuirks, backend: RawBackend, disk: Disk, *, persistent: bool, sector_size: int
    ) -> None:
        self._quirks = quirks
        self._backend = backend
        self._disk = disk
        self._persistent = persistent
        self._sector_size = sector_size
        self._sector_unit = sector_size if quirks.wide_units else SECTOR_SIZE
        self._segment_unit = sector_size if quirks.wide_segments else SECTOR_SIZE

    def carry_out(self, request: Request) -> BlkifStatus:
        """Do what is asked; the status to answer."""
        if request.operation not in self._quirks.operations:
            return self._quirks.unknown_status
        try:
            return self._discard(request) if isinstance(request, DiscardRequest) else self._transfer(request)
        except (GrantError, OSError):
            return ERROR

    def _transfer(self, request: BlkifRequest | IndirectRequest) -> BlkifStatus:
        operation = effective_operation(request)
        if self._is_bare_flush(operation, request.nr_segments):
            self._disk.flush()
            return OKAY
        if not self._well_formed(request):
            return ERROR
        segments = self._backend.segments(request, self._keeps())
        lengths = [(s.last_sect - s.first_sect + 1) * self._segment_unit for s in segments]
        start = request.sector_number * self._sector_unit
        if self._quirks.wraps:
            start %= 1 << 64
        if not all(self._within_page(segment) for segment in segments):
            return ERROR
        if operation != BlkifOp.READ and self._disk.read_only:
            return ERROR
        ranged = segments or operation not in _FLUSHES
        if ranged and not (self._within_disk(start, sum(lengths)) and self._aligned(start, *lengths)):
            return ERROR
        if operation in _FLUSHES:
            self._disk.flush()
        if segments:
            self._move(segments, lengths, start, read=operation == BlkifOp.READ)
        return OKAY

    def _is_bare_flush(self, operation: int, nr_segments: int) -> bool:
        """Whether it is done before any check."""
        if operation == BlkifOp.FLUSH_DISKCACHE and self._quirks.ignores_flushed_data:
            return True
        return operation in _FLUSHES and nr_segments == 0 and not self._quirks.checks_empty_flush

    def _well_formed(self, request: BlkifRequest | IndirectRequest) -> bool:
        if request.nr_segments == 0 and effective_operation(request) in self._quirks.refuses_empty:
            return False
        if isinstance(request, IndirectRequest):
            inner = request.indirect_op in (BlkifOp.READ, BlkifOp.WRITE)
            return inner and request.nr_segments <= self._quirks.max_indirect_segments
        return request.nr_segments <= BLKIF_MAX_SEGMENTS_PER_REQUEST

    def _aligned(self, *numbers: int) -> bool:
        return not any(number % self._sector_size for number in numbers)

    def _within_page(self, segment: BlkifSegment) -> bool:
        return segment.first_sect <= segment.last_sect < PAGE_SIZE // self._segment_unit

    def _within_disk(self, start: int, nr_bytes: int) -> bool:
        return start + nr_bytes <= self._disk.size

    def _discard(self, request: DiscardRequest) -> BlkifStatus:
        start, nr_bytes = request.sector_number * self._sector_unit, request.nr_sectors * self._sector_unit
        if self._disk.read_only or not self._within_disk(start, nr_bytes):
            return ERROR
        zeros = memoryview(bytes(min(nr_bytes, 1 << 20)))
        for at in range(0, nr_bytes, 1 << 20):
            self._disk.pwritev([zeros[: nr_bytes - at]], start + at)
        return OKAY

    def _move(self, segments: Sequence[BlkifSegment], lengths: Sequence[int], start: int, *, read: bool) -> None:
        buffers = [memoryview(bytearray(length)) for length in lengths]
        if read:
            self._disk.preadv(buffers, start)
            self._exchange(segments, buffers, to_grant=True)
        else:
            self._exchange(segments, buffers, to_grant=False)
            self._disk.pwritev(buffers, start)

    def _exchange(self, segments: Sequence[BlkifSegment], buffers: Sequence[memoryview], *, to_grant: bool) -> None:
        """Between the frontend's pages and buffers: by copies of Xen's, or by mappings that may be kept."""
        if self._segment_unit != SECTOR_SIZE:
            ratio = self._segment_unit // SECTOR_SIZE
            segments = [BlkifSegment(s.gref, s.first_sect * ratio, (s.last_sect + 1) * ratio - 1) for s in segments]
        if self._quirks.copies:
            self._backend.copy(segments, buffers, to_grant=to_grant)
        elif to_grant:
            self._backend.scatter(segments, b"".join(buffers), self._keeps())
        else:
            data = memoryview(self._backend.gather(segments, self._keeps()))
            for buffer in buffers:
                buffer[:] = data[: buffer.nbytes]
                data = data[buffer.nbytes :]

    def _keeps(self) -> bool:
        # A request has a few hundred pages at most; the limit may be passed by so many.
        return self._persistent and len(self._backend.kept) < self._quirks.max_persistent_grants
