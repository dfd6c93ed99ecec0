"""Requests to xenstore as clients might send them: mostly right, about few nodes, so that they get into each other's
way; some with a fault inside the message, few with one that puts the stream out of step.
"""

import random
import struct
from collections.abc import Callable
from typing import Final

from fuzzing import EDGES, mutate

from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, XsMsgType

NODES: Final = (
    *(b"/", b"/a", b"/a/b", b"/a/b/c", b"/big", b"/local/domain/5", b"/local/domain/5/a/b"),
    *(b"a", b"a/b", b"/local/domain/7/a", b"/local/domain/9", b"/tool/xenstored"),
)
PATHS: Final = (
    *NODES,
    *(b"@introduceDomain", b"@releaseDomain", b"@other", b"", b"//", b"/a/", b"/local/domain/", b"/\xff"),
    *(b"/" + b"x" * 2047, b"/" + b"x" * 2048, b"y" * 3060, b"/a" + b"/d" * 500),
)
PERMS: Final = (b"n0", b"n5", b"r5", b"b7", b"w7", b"n9", b"r0", b"n7", b"n65535", b"n65536", b"x5", b"n", b"")
DOMIDS: Final = (b"5", b"7", b"9", b"0", b"1", b"32752", b"65536", b"-1", b"", b"5x", b"99999999999999999999999")
COMMANDS: Final = (
    *(b"check", b"help", b"quota", b"quota\x005", b"quota-soft", b"memreport", b"memreport\0file", b"log\0on"),
    *(b"log\0off", b"logfile\0file", b"print\0text", b"live-update", b""),
    *(b"quota\0set\0" + name for name in (b"outstanding\x001", b"nodes\x003", b"memory\x00400", b"watches\x001")),
)
TOKENS: Final = (b"t\0", b"u\0", b"\0", b"t" * 4050 + b"\0")
SIZES: Final = (0, 1, 30, 1900, 2010, 2100, 3900, PAYLOAD_BYTES_MAX)


def _path(dice: random.Random) -> bytes:
    return dice.choice(NODES if dice.random() < 0.85 else PATHS) + b"\0"


def _child(dice: random.Random) -> bytes:
    return dice.choice(NODES).rstrip(b"/") + b"/" + bytes([dice.choice(b"abcdefgh")]) * dice.choice([1, 1, 60]) + b"\0"


def _value(dice: random.Random) -> bytes:
    return (dice.choice([b"v", b"\0\1", b"\xff"]) * PAYLOAD_BYTES_MAX)[: dice.choice(SIZES)]


def _perms(dice: random.Random) -> bytes:
    return b"".join(dice.choice(PERMS[:8] if dice.random() < 0.9 else PERMS) + b"\0" for _ in range(dice.randrange(7)))


def _domid(dice: random.Random) -> bytes:
    return dice.choice(DOMIDS[:3] if dice.random() < 0.8 else DOMIDS) + b"\0"


def _changed(dice: random.Random) -> bytes:
    return _path(dice) if dice.random() < 0.5 else _child(dice)


def _number(dice: random.Random) -> bytes:
    return b"%d\0" % dice.choice([0, 2, 60, *EDGES])


PAYLOADS: Final[dict[int, Callable[[random.Random], bytes]]] = {
    XsMsgType.WRITE: lambda dice: _changed(dice) + _value(dice),
    XsMsgType.MKDIR: _changed,
    XsMsgType.RM: _changed,
    XsMsgType.WATCH: lambda dice: _path(dice) + dice.choice(TOKENS),
    XsMsgType.UNWATCH: lambda dice: _path(dice) + dice.choice(TOKENS),
    XsMsgType.DIRECTORY_PART: lambda dice: _path(dice) + _number(dice),
    XsMsgType.SET_PERMS: lambda dice: _path(dice) + _perms(dice),
    XsMsgType.TRANSACTION_START: lambda _dice: b"\0",
    XsMsgType.TRANSACTION_END: lambda dice: dice.choice([b"T\0", b"T\0", b"T\0", b"F\0"]),
    XsMsgType.RESET_WATCHES: lambda _dice: b"\0",
    XsMsgType.INTRODUCE: lambda dice: _domid(dice) + b"1\0" + dice.choice([b"1\0", b"0\0"]),
    XsMsgType.RELEASE: _domid,
    XsMsgType.RESUME: _domid,
    XsMsgType.GET_DOMAIN_PATH: _domid,
    XsMsgType.IS_DOMAIN_INTRODUCED: _domid,
    XsMsgType.SET_TARGET: lambda dice: _domid(dice) + _domid(dice),
    XsMsgType.CONTROL: lambda dice: dice.choice(COMMANDS) + b"\0",
}
"""What a type has for its payload; where nothing is said, a path."""

KINDS: Final = (
    *[*XsMsgType, 20, 99],
    *[XsMsgType.WRITE, XsMsgType.MKDIR, XsMsgType.RM, XsMsgType.READ, XsMsgType.DIRECTORY] * 5,
    *[XsMsgType.SET_PERMS, XsMsgType.WATCH, XsMsgType.TRANSACTION_START, *[XsMsgType.TRANSACTION_END] * 2] * 4,
)


class Speaker:
    """A client: it knows which transactions it may have."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._started = 0
        self._open: list[int] = []

    def request(self) -> bytes:
        """One message, or what is left of one; about one in 200 puts the stream out of step."""
        dice = self._dice
        kind = dice.choice(KINDS)
        if kind == XsMsgType.TRANSACTION_END and not self._open:
            kind = XsMsgType.TRANSACTION_START
        payload = PAYLOADS.get(kind, _path)(dice)
        if dice.random() < 0.1:
            payload = mutate(dice, payload)
        payload = payload[:PAYLOAD_BYTES_MAX]
        tx_id = dice.choice(EDGES) if dice.random() < 0.03 else self._transaction(kind)
        message = struct.pack("<IIII", kind, dice.choice(EDGES), tx_id, len(payload)) + payload
        return mutate(dice, message) if dice.random() < 0.005 else message

    def _transaction(self, kind: int) -> int:
        if kind == XsMsgType.TRANSACTION_START:
            self._started += 1
            self._open.append(self._started)
            return 0
        if not self._open or (self._dice.random() < 0.5 and kind != XsMsgType.TRANSACTION_END):
            return 0
        tx_id = self._dice.choice(self._open)
        if kind == XsMsgType.TRANSACTION_END:
            self._open.remove(tx_id)
        return tx_id
