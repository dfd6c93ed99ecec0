"""Xenstore's messages, as bytes: a header of four little-endian u32 (type, req_id, tx_id, len), then the payload.

    header = type u32 | req_id u32 | tx_id u32 | len u32        (io/xs_wire.h, struct xsd_sockmsg)

The parser takes the stream in any pieces. A message that claims more than 4096 bytes ends the connection, before its
body is read: there is no way to get back in step with such a peer.
"""

import dataclasses
import enum
import struct
from collections.abc import Iterator
from typing import Final

from xenblk.errors import PeerError

PAYLOAD_BYTES_MAX: Final = 4096
_HEADER: Final = struct.Struct("<IIII")


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


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """One message. `type` is a plain number: a peer may send any."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self) -> bytes:
        """The message as it goes over the wire."""
        assert len(self.payload) <= PAYLOAD_BYTES_MAX
        return _HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class PacketParser:
    """Cuts a stream into packets. Holds at most one message that is not complete."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that are complete now; PeerError when one is too long."""
        self._data += data
        while len(self._data) >= _HEADER.size:
            kind, req_id, tx_id, length = _HEADER.unpack_from(self._data)
            if length > PAYLOAD_BYTES_MAX:
                raise PeerError(f"a xenstore message has at most {PAYLOAD_BYTES_MAX} bytes, this one claims {length}")
            end = _HEADER.size + length
            if len(self._data) < end:
                return
            payload = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            yield Packet(kind, req_id, tx_id, payload)
