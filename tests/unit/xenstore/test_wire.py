"""Packets as bytes: the layout of xs_wire.h, any cut of the stream, and what no honest peer sends."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.errors import PeerError
from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, Packet, PacketParser, XsMsgType

HEADER_BYTES = 16

# Written down by hand from struct xsd_sockmsg: four little-endian u32, then the payload.
GOLDEN = [
    (Packet(2, 1, 0, b"/a\0"), "02000000 01000000 00000000 03000000 2f6100"),
    (Packet(11, 0xFFFFFFFF, 0x01020304, b"/a\0v\0"), "0b000000 ffffffff 04030201 05000000 2f61007600"),
    (
        Packet(15, 0, 0, b"@releaseDomain\0t\0"),
        "0f000000 00000000 00000000 11000000 4072656c65617365446f6d61696e007400",
    ),
    (Packet(16, 7, 9, b"ENOENT\0"), "10000000 07000000 09000000 07000000 454e4f454e5400"),
    (Packet(6, 3, 0, b"\0"), "06000000 03000000 00000000 01000000 00"),
    (Packet(1, 4, 5, b""), "01000000 04000000 05000000 00000000"),
    (Packet(0xFFFFFFFF, 0, 0, b""), "ffffffff 00000000 00000000 00000000"),
]

# Numbers of enum xsd_sockmsg_type; they are the protocol and never change.
NUMBERS = {
    "CONTROL": 0,
    "DIRECTORY": 1,
    "READ": 2,
    "GET_PERMS": 3,
    "WATCH": 4,
    "UNWATCH": 5,
    "TRANSACTION_START": 6,
    "TRANSACTION_END": 7,
    "INTRODUCE": 8,
    "RELEASE": 9,
    "GET_DOMAIN_PATH": 10,
    "WRITE": 11,
    "MKDIR": 12,
    "RM": 13,
    "SET_PERMS": 14,
    "WATCH_EVENT": 15,
    "ERROR": 16,
    "IS_DOMAIN_INTRODUCED": 17,
    "RESUME": 18,
    "SET_TARGET": 19,
    "RESET_WATCHES": 21,
    "DIRECTORY_PART": 22,
}

packets = st.builds(
    Packet,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=64) | st.just(b"x" * PAYLOAD_BYTES_MAX),
)


def test_numbers() -> None:
    assert {member.name: member.value for member in XsMsgType} == NUMBERS


@pytest.mark.parametrize(("packet", "text"), GOLDEN)
def test_golden(packet: Packet, text: str) -> None:
    data = bytes.fromhex(text)
    assert packet.encode() == data
    assert list(PacketParser().feed(data)) == [packet]


def test_golden_byte_by_byte() -> None:
    parser = PacketParser()
    stream = b"".join(bytes.fromhex(text) for _, text in GOLDEN)
    found = [packet for i in range(len(stream)) for packet in parser.feed(stream[i : i + 1])]
    assert found == [packet for packet, _ in GOLDEN]


@given(sent=st.lists(packets, max_size=5), cuts=st.lists(st.integers(1, 5000), max_size=8))
def test_any_cut_of_the_stream(sent: list[Packet], cuts: list[int]) -> None:
    stream, parser, found = b"".join(packet.encode() for packet in sent), PacketParser(), []
    for cut in (*cuts, len(stream)):
        found += list(parser.feed(stream[:cut]))
        stream = stream[cut:]
    assert found == sent


def test_the_longest_message_passes() -> None:
    packet = Packet(XsMsgType.WRITE, 1, 0, b"x" * 4096)
    assert list(PacketParser().feed(packet.encode())) == [packet]


@pytest.mark.parametrize("length", [4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_message_too_long_is_refused_before_its_body(length: int) -> None:
    header = struct.pack("<IIII", 2, 1, 0, length)
    parser = PacketParser()
    assert list(parser.feed(header[:-1])) == []
    with pytest.raises(PeerError, match=f"at most 4096 bytes, this one claims {length}"):
        list(parser.feed(header[-1:]))


def test_packets_before_a_bad_one_are_delivered() -> None:
    good = Packet(2, 1, 0, b"/\0")
    parser = PacketParser().feed(good.encode() + b"\xff" * HEADER_BYTES)
    assert parser.next() == good
    with pytest.raises(PeerError):
        parser.next()


@given(data=st.binary(max_size=200), step=st.integers(1, 50))
def test_any_bytes_give_packets_or_a_peer_error(data: bytes, step: int) -> None:
    parser, found, refused = PacketParser(), [], False
    try:
        for i in range(0, len(data), step):
            found += list(parser.feed(data[i : i + step]))
    except PeerError:
        refused = True
    taken = b"".join(packet.encode() for packet in found)
    rest = data[len(taken) :]
    assert data.startswith(taken)
    claimed = int.from_bytes(rest[12:16], "little") if len(rest) >= HEADER_BYTES else None
    if refused:
        assert claimed is not None
        assert claimed > PAYLOAD_BYTES_MAX
    else:
        assert claimed is None or len(rest) < HEADER_BYTES + claimed <= HEADER_BYTES + PAYLOAD_BYTES_MAX
