"""Xenstore's messages, as bytes: a header of four little-endian u32 (type, req_id, tx_id, len), then the payload.

    header = type u32 | req_id u32 | tx_id u32 | len u32        (io/xs_wire.h, struct xsd_sockmsg)

The parser takes the stream in any pieces and gives one message at a time, so that whoever serves them may stop after
any. A message that claims more than 4096 bytes ends the connection, before its body is read: there is no way to get
back in step with such a peer.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from xenblk.errors import MessageTooLongError

PAYLOAD_BYTES_MAX: Final = 4096
_HEADER: Final = struct.Struct("<IIII")
HEADER_BYTES: Final = _HEADER.size


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


def encode(kind: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    """A message as it goes over the wire; the payload has at most 4096 bytes."""
    return _HEADER.pack(kind, req_id, tx_id, len(payload)) + payload


class PacketParser:
    """Cuts a stream into packets. What was fed and not yet given stays in here; the feeder bounds it."""

    def __init__(self) -> None:
        self._data = b""
        self._start = 0

    def feed(self, data: bytes) -> "PacketParser":
        """Take the next bytes of the stream; iterating then gives the packets that are complete."""
        self._data = self._data[self._start :] + data
        self._start = 0
        return self

    def __iter__(self) -> Iterator[Packet]:
        while (packet := self.next()) is not None:
            yield packet

    def next(self) -> Packet | None:
        """The next packet, None until it is complete; MessageTooLongError when it is."""
        data, start = self._data, self._start
        body = start + HEADER_BYTES
        if len(data) < body:
            return None
        kind, req_id, tx_id, length = _HEADER.unpack_from(data, start)
        if length > PAYLOAD_BYTES_MAX:
            raise MessageTooLongError(
                f"a xenstore message has at most {PAYLOAD_BYTES_MAX} bytes, this one claims {length}"
            )
        end = body + length
        if len(data) < end:
            return None
        self._start = end
        return Packet(kind, req_id, tx_id, data[body:end])

    @property
    def missing_bytes(self) -> int:
        """How many bytes to read next, so that not more is taken than a header or its body; 0 if a packet is there."""
        have = len(self._data) - self._start
        if have < HEADER_BYTES:
            return HEADER_BYTES - have
        length: int = _HEADER.unpack_from(self._data, self._start)[3]
        return max(0, HEADER_BYTES + length - have)
