"""Requests and responses: any bytes parse, whatever is packed comes back, padding is zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.abi import GrantRef
from xenblk.blkif import (
    ABI_BY_PROTOCOL,
    NATIVE,
    X86_32,
    X86_64,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    DiscardRequest,
    IndirectRequest,
    Request,
)
from xenblk.errors import UsageError

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
SEGMENTS = st.lists(st.builds(BlkifSegment, U32, U8, U8), max_size=11).map(tuple)
RW_OPERATIONS = U8.filter(lambda operation: operation not in (BlkifOp.DISCARD, BlkifOp.INDIRECT))


@st.composite
def rw_requests(draw: st.DrawFn) -> BlkifRequest:
    segments = draw(SEGMENTS)
    nr_segments = draw(st.integers(11, 255)) if len(segments) == 11 else len(segments)
    return BlkifRequest(draw(RW_OPERATIONS), draw(U16), draw(U64), draw(U64), nr_segments, segments)


GREFS = st.lists(U32, min_size=8, max_size=8).map(tuple)
REQUESTS = st.one_of(
    rw_requests(),
    st.builds(DiscardRequest, U16, U64, U64, U64, U8),
    st.builds(IndirectRequest, U8, U16, U64, U64, U16, GREFS),
)
RESPONSES = st.builds(BlkifResponse, U64, U8, st.integers(-0x8000, 0x7FFF))
BOTH = pytest.mark.parametrize("abi", [X86_64, X86_32], ids=repr)


def test_names_and_sizes() -> None:
    assert {name: abi.entry_size for name, abi in ABI_BY_PROTOCOL.items()} == {
        "x86_64-abi": 112,
        "x86_32-abi": 108,
        "arm-abi": 112,
    }
    assert NATIVE is X86_64


@BOTH
@given(request=REQUESTS)
def test_requests_come_back(abi: Abi, request: Request) -> None:
    slot = abi.pack_request(request)
    assert len(slot) == abi.entry_size
    assert abi.parse_request(slot) == request


@BOTH
@given(response=RESPONSES)
def test_responses_come_back(abi: Abi, response: BlkifResponse) -> None:
    slot = abi.pack_response(response)
    assert len(slot) == abi.entry_size
    assert abi.parse_response(slot) == response


@BOTH
@given(data=st.data())
def test_any_bytes_parse(abi: Abi, data: st.DataObject) -> None:
    slot = data.draw(st.binary(min_size=abi.entry_size, max_size=abi.entry_size))
    operation = data.draw(st.sampled_from([slot[0], *BlkifOp, 4, 7, 255]))
    slot = bytes([operation]) + slot[1:]
    request = abi.parse_request(slot)
    assert request.operation == operation
    id_at = 8 if abi is X86_64 else 4
    assert request.id == int.from_bytes(slot[id_at : id_at + 8], "little")
    again = abi.pack_request(request)
    assert abi.parse_request(again) == request
    response = abi.parse_response(slot)
    assert abi.parse_response(abi.pack_response(response)) == response


@BOTH
@pytest.mark.parametrize(("claimed", "parsed"), [(0, 0), (11, 11), (12, 11), (255, 11)])
def test_segment_count_is_kept_as_sent(abi: Abi, claimed: int, parsed: int) -> None:
    slot = bytes([BlkifOp.WRITE, claimed]) + b"\xff" * (abi.entry_size - 2)
    request = abi.parse_request(slot)
    assert isinstance(request, BlkifRequest)
    assert request.nr_segments == claimed
    assert request.segments == (BlkifSegment(GrantRef(0xFFFFFFFF), 255, 255),) * parsed


def _bytes_at(*ranges: tuple[int, int]) -> set[int]:
    return {at for first, last in ranges for at in range(first, last + 1)}


PADS_OF_SEGMENTS = {
    X86_64: [(30 + 8 * i, 31 + 8 * i) for i in range(11)],
    X86_32: [(26 + 8 * i, 27 + 8 * i) for i in range(11)],
}


@pytest.mark.parametrize(
    ("abi", "operation", "padding"),
    [
        (X86_64, BlkifOp.WRITE, _bytes_at((4, 7), *PADS_OF_SEGMENTS[X86_64])),
        (X86_32, BlkifOp.WRITE, _bytes_at(*PADS_OF_SEGMENTS[X86_32])),
        (X86_64, BlkifOp.DISCARD, _bytes_at((4, 7), (32, 111))),
        (X86_32, BlkifOp.DISCARD, _bytes_at((28, 107))),
        (X86_64, BlkifOp.INDIRECT, _bytes_at((4, 7), (26, 27), (60, 111))),
        (X86_32, BlkifOp.INDIRECT, _bytes_at((22, 23), (56, 107))),
    ],
)
def test_padding_of_requests_is_ignored_and_zeroed(abi: Abi, operation: BlkifOp, padding: set[int]) -> None:
    ones = bytes([operation]).ljust(abi.entry_size, b"\xff")
    packed = abi.pack_request(abi.parse_request(ones))
    assert {at for at, byte in enumerate(packed) if byte != ones[at]} == padding
    assert all(packed[at] == 0 for at in padding)


@BOTH
def test_padding_of_responses_is_ignored_and_zeroed(abi: Abi) -> None:
    packed = abi.pack_response(abi.parse_response(b"\xff" * abi.entry_size))
    assert {at for at, byte in enumerate(packed) if byte == 0} == _bytes_at((9, 9), (12, abi.entry_size - 1))


@pytest.mark.parametrize(
    "request_",
    [
        BlkifRequest(0, 1 << 16, 0, 0, 0, ()),
        BlkifRequest(0, 0, -1, 0, 0, ()),
        BlkifRequest(0, 0, 0, 0, 1, (BlkifSegment(GrantRef(1 << 32), 0, 7),)),
        DiscardRequest(0, 0, 0, 1 << 64),
        IndirectRequest(0, 0, 0, 0, 1, (GrantRef(1),)),
    ],
)
def test_numbers_that_do_not_fit(request_: Request) -> None:
    with pytest.raises(UsageError, match="does not fit a slot"):
        NATIVE.pack_request(request_)


def test_too_many_segments() -> None:
    with pytest.raises(UsageError, match="at most 11 segments, not 12"):
        NATIVE.pack_request(BlkifRequest(0, 0, 0, 0, 12, (BlkifSegment(GrantRef(1), 0, 7),) * 12))


def test_response_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="does not fit a slot"):
        NATIVE.pack_response(BlkifResponse(0, 0, 0x8000))
