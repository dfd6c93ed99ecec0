"""What C makes of a slot is what Python makes of it, for any bytes; and it refuses what the Python engine refuses."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xenblk._native import ffi, lib
from xenblk.abi import GrantRef
from xenblk.blkback.checks import (
    check_count,
    check_discard_range,
    check_discard_sectors,
    check_place,
    check_segments,
)
from xenblk.blkif import (
    X86_32,
    X86_64,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    DiscardRequest,
    IndirectRequest,
    pack_segments,
    parse_segments,
)
from xenblk.disk import MemoryDisk
from xenblk.errors import BlkifPeerError

ABIS = st.sampled_from((X86_64, X86_32))
SECTORS = 1000


def _parse(abi: Abi, slot: bytes) -> Any:
    request = ffi.new("struct xb_blkif_request *")
    lib.xb_blkif_parse(slot, abi.entry_size, request)
    return request


@st.composite
def slots(draw: st.DrawFn) -> tuple[Abi, bytes]:
    abi = draw(ABIS)
    slot = draw(st.binary(min_size=abi.entry_size, max_size=abi.entry_size))
    operation = draw(st.sampled_from([*BlkifOp, slot[0]]))
    nr_segments = draw(st.sampled_from([0, 1, 10, 11, 12, 255, slot[1]]))
    return abi, bytes([operation, nr_segments]) + slot[2:]


@given(slots())
def test_any_bytes(found: tuple[Abi, bytes]) -> None:
    abi, slot = found
    native, wanted = _parse(abi, slot), abi.parse_request(slot)
    assert (native.operation, native.id, native.sector_number) == (wanted.operation, wanted.id, wanted.sector_number)
    assert native.handle == wanted.handle
    if isinstance(wanted, DiscardRequest):
        assert (native.flag, native.nr_sectors, native.nr_segments) == (wanted.flag, wanted.nr_sectors, 0)
    elif isinstance(wanted, IndirectRequest):
        assert (native.indirect_op, native.nr_segments) == (wanted.indirect_op, wanted.nr_segments)
        assert tuple(native.indirect_grefs) == wanted.indirect_grefs
    else:
        assert native.nr_segments == wanted.nr_segments
        segments = [(s.gref, s.first_sect, s.last_sect) for s in native.segments]
        shown = [(s.gref, s.first_sect, s.last_sect) for s in wanted.segments]
        assert segments == shown + [(0, 0, 0)] * (11 - len(shown))


SEGMENT = st.builds(BlkifSegment, st.integers(0, 9).map(GrantRef), st.integers(0, 9), st.integers(0, 9))
WHERE = st.one_of(st.integers(0, SECTORS + 10), st.integers((1 << 64) - 100, (1 << 64) - 1))
OPERATION = st.sampled_from((BlkifOp.READ, BlkifOp.WRITE, BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE))
WHOLE = (BlkifSegment(GrantRef(1), 0, 7),)


@given(
    st.builds(
        lambda operation, where, segments, more: BlkifRequest(
            operation, 0, 1, where, len(segments) + (more if len(segments) == 11 else 0), tuple(segments)
        ),
        OPERATION,
        WHERE,
        st.lists(SEGMENT, max_size=11),
        st.integers(0, 244),
    ),
    ABIS,
    st.booleans(),
    st.sampled_from([512, 4096]),
)
@example(BlkifRequest(BlkifOp.READ, 0, 1, SECTORS - 8, 1, WHOLE), X86_64, True, 512)
@example(BlkifRequest(BlkifOp.READ, 0, 1, SECTORS - 7, 1, WHOLE), X86_64, True, 512)
@example(BlkifRequest(BlkifOp.WRITE, 0, 1, (1 << 64) - 8, 1, WHOLE), X86_64, False, 512)
@example(BlkifRequest(BlkifOp.READ, 0, 1, 4, 1, WHOLE), X86_64, True, 4096)
@example(BlkifRequest(BlkifOp.FLUSH_DISKCACHE, 0, 1, 1 << 63, 0, ()), X86_64, False, 512)
def test_what_is_refused(request: BlkifRequest, abi: Abi, read_only: bool, sector_size: int) -> None:
    allowed = _is_allowed(request, MemoryDisk(SECTORS * 512, read_only=read_only, sector_size=sector_size))
    native, nr_sectors = _parse(abi, abi.pack_request(request)), ffi.new("uint32_t *")
    disk = _native_disk(read_only, sector_size)
    counted = lib.xb_blkif_check_count(request.operation, request.nr_segments, 11)
    assert (counted and lib.xb_blkif_check(native, native.segments, disk, nr_sectors)) == allowed
    if allowed:
        assert nr_sectors[0] == sum(s.last_sect - s.first_sect + 1 for s in request.segments)


def _is_allowed(request: BlkifRequest, disk: MemoryDisk) -> bool:
    try:
        check_count(request.operation, request.nr_segments, 11)
        check_segments(request)
        check_place(request, disk)
    except BlkifPeerError:
        return False
    return True


def _native_disk(read_only: bool, sector_size: int) -> Any:
    return ffi.new(
        "struct xb_blkif_disk *", {"sectors": SECTORS, "unit_sectors": sector_size // 512, "read_only": read_only}
    )


@given(WHERE, st.one_of(st.integers(0, 20), WHERE), ABIS, st.booleans(), st.sampled_from([512, 4096]))
def test_which_discards_are_refused(sector: int, nr_sectors: int, abi: Abi, read_only: bool, sector_size: int) -> None:
    disk = MemoryDisk(SECTORS * 512, read_only=read_only, sector_size=sector_size)
    request = DiscardRequest(0, 1, sector, nr_sectors)
    native, native_disk = _parse(abi, abi.pack_request(request)), _native_disk(read_only, sector_size)
    for python, c in [
        (check_discard_range, lib.xb_blkif_check_discard_range),
        (check_discard_sectors, lib.xb_blkif_check_discard_sectors),
    ]:
        try:
            python(request, disk)
            allowed = True
        except BlkifPeerError:
            allowed = False
        assert c(native, native_disk) == allowed


@given(st.binary(min_size=0, max_size=512 * 8).map(lambda data: data[: len(data) // 8 * 8]))
@example(bytes(range(256)) * 16)
def test_segments_of_a_page(table: bytes) -> None:
    segments = ffi.new("struct xb_blkif_segment[512]")
    lib.xb_blkif_parse_segments(table, len(table) // 8, segments)
    parsed = parse_segments(table)
    assert [(s.gref, s.first_sect, s.last_sect) for s in segments][: len(parsed)] == [
        (s.gref, s.first_sect, s.last_sect) for s in parsed
    ]
    assert parse_segments(pack_segments(parsed)) == parsed


@given(ABIS, st.integers(0, (1 << 64) - 1), st.integers(0, 255), st.sampled_from((0, -1, -2)))
def test_responses(abi: Abi, number: int, operation: int, status: int) -> None:
    slot = ffi.new("uint8_t[]", b"\xff" * abi.entry_size)
    lib.xb_blkif_pack_response(slot, abi.entry_size, number, operation, status)
    assert bytes(ffi.buffer(slot, abi.entry_size)) == abi.pack_response(BlkifResponse(number, operation, status))


@pytest.mark.parametrize("abi", [X86_64, X86_32])
def test_the_layouts_have_the_sizes_that_tell_them_apart(abi: Abi) -> None:
    sizes = {"x86_64-abi": lib.XB_BLKIF_X86_64_SLOT_BYTES, "x86_32-abi": lib.XB_BLKIF_X86_32_SLOT_BYTES}
    assert sizes[abi.protocol] == abi.entry_size
