"""Xenstore's messages out of any bytes: the same packets however the stream is cut, and one error for one fault.

A case is the stream in pieces, in hexadecimal. See fuzzing.py for how to run this.
"""

import pickle
import random
import struct
import sys
from typing import Final

from fuzzing import EDGES, Case, cut, main, mutate

from xenblk.errors import MessageTooLongError
from xenblk.xenstore.wire import HEADER_BYTES, PAYLOAD_BYTES_MAX, Packet, PacketParser

OBJECT_BYTES: Final = 512
"""A parser that holds nothing takes less, pickled."""


def make(dice: random.Random) -> Case:
    """A few messages, or rubbish, some with faults."""
    stream = b""
    for _ in range(dice.randrange(8)):
        payload = dice.randbytes(dice.choice([0, 1, dice.randrange(64), PAYLOAD_BYTES_MAX - 1, PAYLOAD_BYTES_MAX]))
        kind, req_id, tx_id = (dice.choice([dice.randrange(30), dice.choice(EDGES)]) for _ in range(3))
        length = len(payload) if dice.random() < 0.9 else dice.choice(EDGES)
        stream += struct.pack("<IIII", kind, req_id, tx_id, length) + payload
    if dice.random() < 0.3:
        stream = mutate(dice, stream)
    if dice.random() < 0.1:
        stream += dice.randbytes(40)
    return [piece.hex() for piece in cut(dice, stream)]


def expected(stream: bytes) -> tuple[list[Packet], bool]:
    """The packets of a stream, and whether one that is too long ends it: the wire format in its plainest form."""
    packets = []
    while len(stream) >= 16:
        kind, req_id, tx_id, length = struct.unpack("<IIII", stream[:16])
        if length > 4096:
            return packets, True
        if len(stream) < 16 + length:
            break
        packets.append(Packet(kind, req_id, tx_id, stream[16 : 16 + length]))
        stream = stream[16 + length :]
    return packets, False


class Reader:
    """A parser and what came out of it."""

    def __init__(self) -> None:
        self.parser = PacketParser()
        self.found: list[Packet] = []
        self.too_long = False

    def take(self, piece: bytes) -> None:
        """Feed it and take all packets; after it has refused the stream it must go on to."""
        self.parser.feed(piece)
        refused = False
        try:
            while (packet := self.parser.next()) is not None:
                self.found.append(packet)
        except MessageTooLongError:
            refused = True
        assert refused or not self.too_long, "what was refused once must stay so"
        self.too_long = refused


def check(case: Case) -> None:
    """Cut as the case says, and read as a server does that takes no more than a message."""
    pieces = [bytes.fromhex(piece) for piece in case]
    stream = b"".join(pieces)
    wanted = expected(stream)
    reader = Reader()
    for piece in pieces:
        reader.take(piece)
        limit = OBJECT_BYTES + HEADER_BYTES + PAYLOAD_BYTES_MAX + len(piece)
        assert reader.too_long or len(pickle.dumps(reader.parser)) <= limit, "the parser keeps too much"
    assert (reader.found, reader.too_long) == wanted
    reader = Reader()
    while stream and not reader.too_long:
        missing_bytes = reader.parser.missing_bytes
        assert 0 < missing_bytes <= PAYLOAD_BYTES_MAX, missing_bytes
        reader.take(stream[:missing_bytes])
        stream = stream[missing_bytes:]
    assert (reader.found, reader.too_long) == wanted


if __name__ == "__main__":
    sys.exit(main(make, check))
