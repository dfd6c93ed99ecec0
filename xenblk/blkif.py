"""Requests and responses of blkif, and their bytes in a ring slot; no I/O.

The same structures are laid out in two ways: the 64-bit ABI aligns u64 to 8 bytes, the 32-bit x86 ABI to 4. All numbers
are little-endian. Offsets, x86_64 / x86_32:

    any request        operation u8 0, id u64 8 / 4, sector_number u64 16 / 12
    read, write, ...   nr_segments u8 1, handle u16 2, 11 segments of 8 bytes 24 / 20
    discard            flag u8 1, handle u16 2, nr_sectors u64 24 / 20
    indirect           indirect_op u8 1, nr_segments u16 2, handle u16 24 / 20, 8 grefs u32 28 / 24
    segment            gref u32 0, first_sect u8 4, last_sect u8 5
    response           id u64 0, operation u8 8, status s16 10

Parsing takes any bytes: what they mean is for the engine to judge. Padding is ignored when read and zero when written.
Sectors are 512 bytes whatever `sector-size` says. Source: io/blkif.h.
"""

import dataclasses
import enum
import itertools
import struct
from collections.abc import Iterable
from typing import ClassVar, Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE, GrantRef
from xenblk.errors import UsageError


class BlkifOp(enum.IntEnum):
    """What a request asks for (BLKIF_OP_*)."""

    READ = 0
    WRITE = 1
    WRITE_BARRIER = 2
    FLUSH_DISKCACHE = 3
    DISCARD = 5
    INDIRECT = 6


class BlkifStatus(enum.IntEnum):
    """What a response says (BLKIF_RSP_*)."""

    OKAY = 0
    ERROR = -1
    EOPNOTSUPP = -2


BLKIF_DISCARD_SECURE: Final = 1
"""Bit of DiscardRequest.flag: erase, not only forget."""

VDISK_CDROM: Final = 1
VDISK_REMOVABLE: Final = 2
VDISK_READONLY: Final = 4
"""Bits of the node `info`."""

BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: Final = 8

SEGMENT_BYTES: Final = 8
SEGMENTS_PER_INDIRECT_PAGE: Final = PAGE_SIZE // SEGMENT_BYTES

BLKIF_MAX_INDIRECT_SEGMENTS: Final = BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST * SEGMENTS_PER_INDIRECT_PAGE
"""What the eight references of an indirect request have room for."""


@dataclasses.dataclass(frozen=True, slots=True)
class BlkifSegment:
    """Sectors `first_sect` to `last_sect`, both included, of the page granted as `gref`."""

    gref: GrantRef
    first_sect: int
    last_sect: int


@dataclasses.dataclass(frozen=True, slots=True)
class BlkifRequest:
    """A request with segments of its own, or of an operation that nobody knows; or an indirect one, once read.

    `nr_segments` is what the frontend wrote, even if that is more than the 11 that `segments` holds at most.
    """

    operation: int
    handle: int
    id: int
    sector_number: int
    nr_segments: int
    segments: tuple[BlkifSegment, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DiscardRequest:
    """`nr_sectors` from `sector_number` are not needed any more; `flag` may have BLKIF_DISCARD_SECURE."""

    operation: ClassVar[int] = BlkifOp.DISCARD
    handle: int
    id: int
    sector_number: int
    nr_sectors: int
    flag: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class IndirectRequest:
    """A request whose segments are in granted pages, 512 to a page. It is answered with `indirect_op`, never with 6."""

    operation: ClassVar[int] = BlkifOp.INDIRECT
    indirect_op: int
    handle: int
    id: int
    sector_number: int
    nr_segments: int
    indirect_grefs: tuple[GrantRef, ...]
    """Always 8; those beyond the pages that `nr_segments` needs mean nothing."""

    @property
    def nr_pages(self) -> int:
        """Pages that the segments take."""
        return -(-self.nr_segments // SEGMENTS_PER_INDIRECT_PAGE)


@dataclasses.dataclass(frozen=True, slots=True)
class BlkifResponse:
    """The answer to request `id`; `status` is a BlkifStatus if the backend is honest."""

    id: int
    operation: int
    status: int


Request = BlkifRequest | DiscardRequest | IndirectRequest

_SEGMENT: Final = struct.Struct("<IBB2x")


def parse_segments(data: bytes) -> tuple[BlkifSegment, ...]:
    """The segments that stand in `data`, 8 bytes each: of a slot or of indirect pages."""
    return tuple(itertools.starmap(BlkifSegment, _SEGMENT.iter_unpack(data)))


def pack_segments(segments: Iterable[BlkifSegment]) -> bytes:
    """The bytes of segments for indirect pages, one after the other."""
    return b"".join(_SEGMENT.pack(segment.gref, segment.first_sect, segment.last_sect) for segment in segments)


class Abi:
    """One layout of requests and responses: `protocol` is its name in xenstore, `entry_size` the bytes of a slot."""

    def __init__(self, protocol: str, pad_bytes: int, entry_size: int) -> None:
        self.protocol: Final = protocol
        self.entry_size: Final = entry_size
        head = f"<BBH{pad_bytes}xQQ"
        self._segments_at = struct.calcsize(head)
        self._head = struct.Struct(head)
        self._by_segments = [
            self._whole_slot(head + "IBB2x" * count) for count in range(BLKIF_MAX_SEGMENTS_PER_REQUEST + 1)
        ]
        self._discard = self._whole_slot(head + "Q")
        self._indirect = self._whole_slot(head + "H2x8I")
        self._response = self._whole_slot("<QBxh")

    def _whole_slot(self, layout: str) -> struct.Struct:
        return struct.Struct(f"{layout}{self.entry_size - struct.calcsize(layout)}x")

    def __repr__(self) -> str:
        return f"<Abi {self.protocol}>"

    def parse_request(self, slot: bytes) -> Request:
        """What `slot`, any `entry_size` bytes, says; never an error."""
        operation = slot[0]
        if operation == BlkifOp.DISCARD:
            _, flag, handle, number, sector, nr_sectors = self._discard.unpack(slot)
            return DiscardRequest(handle, number, sector, nr_sectors, flag)
        if operation == BlkifOp.INDIRECT:
            _, indirect_op, nr_segments, number, sector, handle, *grefs = self._indirect.unpack(slot)
            return IndirectRequest(indirect_op, handle, number, sector, nr_segments, tuple(grefs))
        _, nr_segments, handle, number, sector = self._head.unpack_from(slot)
        end = self._segments_at + min(nr_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST) * SEGMENT_BYTES
        return BlkifRequest(
            operation, handle, number, sector, nr_segments, parse_segments(slot[self._segments_at : end])
        )

    def pack_request(self, request: Request) -> bytes:
        """The whole slot. UsageError for more than 11 segments, or a number that does not fit its field.

        `nr_segments` is written as it is, so that a request may lie.
        """
        try:
            match request:
                case DiscardRequest(handle, number, sector, nr_sectors, flag):
                    return self._discard.pack(BlkifOp.DISCARD, flag, handle, number, sector, nr_sectors)
                case IndirectRequest(indirect_op, handle, number, sector, nr_segments, grefs):
                    return self._indirect.pack(
                        BlkifOp.INDIRECT, indirect_op, nr_segments, number, sector, handle, *grefs
                    )
                case _:
                    return self._pack_segments(request)
        except struct.error as e:
            raise UsageError(f"{request} does not fit a slot: {e}") from e

    def _pack_segments(self, request: BlkifRequest) -> bytes:
        segments = request.segments
        if len(segments) > BLKIF_MAX_SEGMENTS_PER_REQUEST:
            raise UsageError(f"a request has at most {BLKIF_MAX_SEGMENTS_PER_REQUEST} segments, not {len(segments)}")
        numbers = [n for s in segments for n in (s.gref, s.first_sect, s.last_sect)]
        return self._by_segments[len(segments)].pack(
            request.operation, request.nr_segments, request.handle, request.id, request.sector_number, *numbers
        )

    def parse_response(self, slot: bytes) -> BlkifResponse:
        """What `slot`, any `entry_size` bytes, says; never an error."""
        return BlkifResponse(*self._response.unpack(slot))

    def pack_response(self, response: BlkifResponse) -> bytes:
        """The whole slot, so that nothing of the request stays in it. UsageError if a number does not fit its field."""
        try:
            return self._response.pack(response.id, response.operation, response.status)
        except struct.error as e:
            raise UsageError(f"{response} does not fit a slot: {e}") from e


X86_64: Final = Abi("x86_64-abi", pad_bytes=4, entry_size=112)
X86_32: Final = Abi("x86_32-abi", pad_bytes=0, entry_size=108)
NATIVE: Final = X86_64
"""What a frontend of ours speaks, unless it is told otherwise."""

ABIS: Final = {abi.protocol: abi for abi in (X86_64, X86_32)}
"""The layouts, by the names that they have on x86."""
ABI_BY_PROTOCOL: Final = {**ABIS, "arm-abi": X86_64}
"""The layout that a frontend's node `protocol` names. Linux on ARM, of 32 bits too, aligns u64 to 8 bytes."""
