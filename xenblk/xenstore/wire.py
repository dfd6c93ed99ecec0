"""Xenstore's messages, as bytes: a header of four little-endian u32 (type, req_id, tx_id, len), then the payload.

    header = type u32 | req_id u32 | tx_id u32 | len u32        (io/xs_wire.h, struct xsd_sockmsg)

The parser takes the stream in any pieces and gives one message at a time, so that whoever serves them may stop after
any. A message that claims more than 4096 bytes ends the connection, before its body is read: there is no way to get
back in step with such a peer.
"""

import collections
import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from xenblk.errors import MessageTooLongError

PAYLOAD_BYTES_MAX: Final = 4096
_HEADER: Final = struct.Struct("<IIII")
HEADER_BYTES: Final = _HEADER.size
_pack_header: Final = _HEADER.pack
_unpack_header: Final = _HEADER.unpack_from


class XsMsgType(enum.IntEnum):
    """Message types (enum xsd_sockmsg_type)."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Packet(NamedTuple):
    """One message. `type` is a plain number: a peer may send any."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self) -> bytes:
        """The message as it goes over the wire; the payload has at most 4096 bytes."""
        return encode(self.type, self.req_id, self.tx_id, self.payload)


_new_packet: Final = tuple.__new__  # as Packet() does it, in half the time


def encode(kind: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    """A message as it goes over the wire; the payload has at most 4096 bytes."""
    return _pack_header(kind, req_id, tx_id, len(payload)) + payload


class PacketParser:
    """Cuts a stream into packets. What was fed and not yet given stays in here; the feeder bounds it."""

    def __init__(self) -> None:
        self.packets: collections.deque[Packet] = collections.deque()
        """Those that are complete; who is in a hurry may look, and take them from the left."""
        self.broken = False
        """Whether a message that is too long comes after them."""
        self._rest = b""

    def feed(self, data: bytes) -> "PacketParser":
        """Take the next bytes of the stream; iterating then gives the packets that are complete."""
        if self._rest:
            data = self._rest + data
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            kind, req_id, tx_id, length = _unpack_header(data, start)
            end = start + HEADER_BYTES + length
            if end > size or length > PAYLOAD_BYTES_MAX:
                self.broken = length > PAYLOAD_BYTES_MAX
                break
            self.packets.append(_new_packet(Packet, (kind, req_id, tx_id, data[start + HEADER_BYTES : end])))
            start = end
        self._rest = data[start:]
        return self

    def __iter__(self) -> Iterator[Packet]:
        while (packet := self.next()) is not None:
            yield packet

    def next(self) -> Packet | None:
        """The next packet, None until it is complete; MessageTooLongError when it is too long."""
        if self.packets:
            return self.packets.popleft()
        if self.broken:
            length = _unpack_header(self._rest)[3]
            raise MessageTooLongError(
                f"a xenstore message has at most {PAYLOAD_BYTES_MAX} bytes, this one claims {length}"
            )
        return None

    @property
    def missing_bytes(self) -> int:
        """How many bytes to read next, so that not more is taken than a header or its body; 0 if a packet is there."""
        if self.packets or self.broken:
            return 0
        if len(self._rest) < HEADER_BYTES:
            return HEADER_BYTES - len(self._rest)
        length: int = _unpack_header(self._rest)[3]
        return HEADER_BYTES + length - len(self._rest)
