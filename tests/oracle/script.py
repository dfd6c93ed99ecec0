"""What happens to two xenstores, made up from a source of chance: steps that get into each other's way.

Few paths, few tokens, four or five connections: conflicts, duplicates, watches above and below, permissions that are
lost, domains that die and come back. Now and then something malformed.
"""

import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from oracle.worlds import DOM0S, GUESTS

from xenblk.xenstore.wire import XsMsgType

PATHS: Final = (
    "/a", "/a/b", "/a/b/c", "/a/b/d", "/a/e", "/f", "/f/g", "/", "/tool", "a", "a/b", "x", "/local/domain/1",
    "/local/domain/1/a", "/local/domain/1/a/b", "/local/domain/2", "/local/domain/2/x", "/local/domain/0/a", "/local",
)  # fmt: skip
BAD_PATHS: Final = ("", "//", "/a/", "/a//b", "/a b", "/ä", "@a", "@releaseDomain", "@introduceDomain/1", "a/", "/a.b")
WATCHED: Final = (*PATHS, "@introduceDomain", "@releaseDomain", "@other", "@odd name", "", "/a/", "/a b")
VALUES: Final = (b"", b"1", b"22", b"\0", b"v\0w\0", b"x" * 100, b"y" * 1500, b"z" * 1990, b"z" * 3000)
PERMS: Final = (
    "n0", "r0", "b0", "w0", "n1", "b1", "r1", "n2", "w2", "n3", "n0 r1", "n0 b1 r2", "n0 n1 b2", "n1 r2", "r1 n2",
    "b2 w1", "n0 r1 r1", "n7", "n0 b7", "x0", "n", "n0 r", "", "n0 r1 r2 r3 r4 r5 r6", "n1 r2 r3 b2 b3",
)  # fmt: skip
NUMBERS: Final = ("0", "1", "2", "3", "7", "32752", "abc", "", " 2", "-1", "+1", "1x", "9" * 20)

WEIGHTS: Final = {
    XsMsgType.READ: 8, XsMsgType.WRITE: 16, XsMsgType.MKDIR: 8, XsMsgType.RM: 9, XsMsgType.DIRECTORY: 5,
    XsMsgType.GET_PERMS: 4, XsMsgType.SET_PERMS: 12, XsMsgType.WATCH: 7, XsMsgType.UNWATCH: 3,
    XsMsgType.TRANSACTION_START: 6, XsMsgType.TRANSACTION_END: 6, XsMsgType.RESET_WATCHES: 0.5,
    XsMsgType.DIRECTORY_PART: 2, XsMsgType.GET_DOMAIN_PATH: 1, XsMsgType.IS_DOMAIN_INTRODUCED: 1,
    XsMsgType.CONTROL: 0.5, XsMsgType.INTRODUCE: 1.5, XsMsgType.RELEASE: 0.5, XsMsgType.RESUME: 0.5,
    XsMsgType.SET_TARGET: 0.3,
}  # fmt: skip

ONE_PATH: Final = (XsMsgType.READ, XsMsgType.DIRECTORY, XsMsgType.GET_PERMS, XsMsgType.MKDIR, XsMsgType.RM)
"""Requests whose payload is left as it should be; see differences.py."""

UNKNOWN: Final = (15, 16, 20, 23, 26, 99, 1 << 31)


def _strings(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


WITHOUT_PATH: Final = {
    XsMsgType.TRANSACTION_START: [b"\0"],
    XsMsgType.TRANSACTION_END: [b"T\0"] * 20 + [b"F\0"] * 6 + [b"X\0", b"T"],
    XsMsgType.RESET_WATCHES: [b"\0"],
    XsMsgType.GET_DOMAIN_PATH: [_strings(number) for number in NUMBERS],
    XsMsgType.IS_DOMAIN_INTRODUCED: [_strings(number) for number in NUMBERS],
    XsMsgType.RELEASE: [_strings(number) for number in ("0", "1", "2", "3", "7", "x")],
    XsMsgType.RESUME: [_strings(number) for number in ("0", "1", "2", "3", "7", "x")],
    XsMsgType.SET_TARGET: [_strings("1", "2"), _strings("2", "3"), _strings("1", "7"), _strings("1")],
    XsMsgType.INTRODUCE: [_strings(domid, "1", port) for domid in "1237" for port in ("1", "1", "1", "0", "-3")],
    XsMsgType.CONTROL: [
        _strings(*words.split()) for words in ("check", "print hello", "quota 7", "nope", "log x", "help", "quota")
    ],
}
TRANSACTIONS_MAX: Final = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """A request on a connection (`ask`), or what befalls a domain, whose number is `name` then: `create`, `destroy`,
    `shut_down`."""

    what: str
    name: str
    kind: int = 0
    tx_id: int = 0
    payload: bytes = b""

    def __str__(self) -> str:
        if self.what != "ask":
            return f"{self.what} domain {self.name}"
        kind = XsMsgType(self.kind).name if self.kind in set(XsMsgType) else str(self.kind)
        return f"{self.name}: {kind} tx {self.tx_id} {self.payload[:80]!r}"


def _as_a_toolstack(name: str) -> Iterator[Step]:
    """What makes a domain one that can do something: it is introduced, and has a home and something to share."""
    home = f"/local/domain/{name}"
    yield Step("ask", "A", XsMsgType.INTRODUCE, 0, f"{name}\0001\0001\0".encode())
    for path, perms in ((home, f"n{name}"), ("/a", "b0"), ("/f", f"n0\0b{name}")):
        yield Step("ask", "A", XsMsgType.MKDIR, 0, f"{path}\0".encode())
        yield Step("ask", "A", XsMsgType.SET_PERMS, 0, f"{path}\0{perms}\0".encode())


class Script:
    """Makes steps up. It is told which transactions began and ended, and which domains there are."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._planned: list[Step] = []
        self._naming: set[tuple[str, int]] = set()
        self.open: dict[str, list[int]] = {}
        self.existing: set[str] = set()
        self.connected: list[str] = list(DOM0S)
        self.shut_down: set[str] = set()
        """Guests that are not introduced: the daemon would notice their state when it looks at some other domain."""
        self.targeted: set[str] = set()
        """Guests that are somebody's target: not released, see differences.py."""

    def next(self) -> Step:
        """Another step."""
        chance = self._chance
        if self._planned:
            return self._planned.pop(0)
        if chance.random() < (0.02 if self.existing else 0.3):
            return self._domain_step()
        name = chance.choice([guest for guest in self.connected if guest not in DOM0S] or self.connected)
        if chance.random() < 0.5:
            name = chance.choice(DOM0S)
        if chance.random() < 0.02:
            return Step("ask", name, chance.choice(UNKNOWN), 0, b"/a\0")
        kind = chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        tx_id = self._transaction(name, kind)
        payload = self._payload(kind, name in DOM0S)
        if chance.random() < 0.02 and kind not in ONE_PATH:
            payload = self._spoil(payload)
        if kind == XsMsgType.RELEASE and (self._names_domains() or payload[:1].decode("latin-1") in self.targeted):
            payload = b"7\0"
        if kind == XsMsgType.SET_PERMS and tx_id in self.open.get(name, []):
            self._naming.add((name, tx_id))
        if kind == XsMsgType.INTRODUCE and payload[:1].decode("latin-1") in self.shut_down:
            payload = b"7\0001\0001\0"
        return Step("ask", name, kind, tx_id, payload)

    def _names_domains(self) -> bool:
        """Whether a transaction that may be committed later names a domain that dies now; see differences.py."""
        self._naming = {(name, tx_id) for name, tx_id in self._naming if tx_id in self.open.get(name, [])}
        return bool(self._naming)

    def _domain_step(self) -> Step:
        name = self._chance.choice(GUESTS)
        if name not in self.existing:
            if self._chance.random() < 0.8:
                self._planned = [*_as_a_toolstack(name)]
            return Step("create", name)
        stays = name in self.targeted or name not in self.connected or self._names_domains()
        if stays or self._chance.random() < 0.5:
            return Step("shut_down", name)
        return Step("destroy", name)

    def _transaction(self, name: str, kind: int) -> int:
        """Mostly one that is open."""
        mine = self.open.get(name, [])
        if kind == XsMsgType.TRANSACTION_START and len(mine) < TRANSACTIONS_MAX:
            return 0
        if mine and self._chance.random() < (0.9 if kind == XsMsgType.TRANSACTION_END else 0.5):
            return self._chance.choice(mine)
        return self._chance.choices([0, 1, 77], [30, 1, 1])[0]

    def _path(self) -> bytes:
        paths = BAD_PATHS if self._chance.random() < 0.04 else PATHS
        return self._chance.choice(paths).encode("utf-8") + b"\0"

    def _payload(self, kind: int, privileged: bool) -> bytes:
        chance = self._chance
        if (choices := WITHOUT_PATH.get(XsMsgType(kind))) is not None:
            return chance.choice(choices)
        if kind == XsMsgType.WRITE:
            return self._path() + chance.choice(VALUES)
        if kind == XsMsgType.DIRECTORY_PART:
            return self._path() + _strings(chance.choice(("0", "2", "1000", "-1", "z")))
        if kind == XsMsgType.SET_PERMS:
            return self._permissions(privileged)
        if kind in (XsMsgType.WATCH, XsMsgType.UNWATCH):
            return _strings(chance.choice(WATCHED), chance.choice(("", "t", "u", "t" * 4000, "t", "u", "t", "u")))
        return self._path()

    def _permissions(self, privileged: bool) -> bytes:
        chance = self._chance
        path = self._path()
        if privileged and chance.random() < 0.1:
            path = chance.choice([b"@releaseDomain\0", b"@introduceDomain\0"])
        elif path.startswith(b"@"):
            path = b"//\0"  # see differences.py
        # So is a root that a guest owns.
        return path + _strings(*("n0 b1 b2" if path == b"/\0" else chance.choice(PERMS)).split(" "))

    def _spoil(self, payload: bytes) -> bytes:
        how = self._chance.randrange(4)
        if how == 0:
            return payload[:-1]
        if how == 1:
            return payload + b"more"
        return payload + b"more\0" if how == 2 else b""

    def told(self, step: Step, reply: Any) -> None:
        """What came of a step: the reply, None for what befell a domain."""
        self._note_state(step)
        mine = self.open.setdefault(step.name, [])
        if step.what != "ask" or reply is None or reply.type == XsMsgType.ERROR:
            if step.kind == XsMsgType.TRANSACTION_END and step.tx_id in mine and step.payload in (b"T\0", b"F\0"):
                mine.remove(step.tx_id)
        elif step.kind == XsMsgType.TRANSACTION_START:
            mine.append(int(reply.payload[:-1]))
        elif step.kind == XsMsgType.TRANSACTION_END and step.tx_id in mine:
            mine.remove(step.tx_id)
        elif step.kind == XsMsgType.RESET_WATCHES:
            mine.clear()
        elif step.kind == XsMsgType.SET_TARGET:
            self.targeted.add(chr(step.payload[2]))

    def _note_state(self, step: Step) -> None:
        if step.what == "shut_down":
            self.shut_down.add(step.name)
        elif step.what in ("destroy", "create"):
            self.shut_down.discard(step.name)
        elif step.kind == XsMsgType.RESUME:
            self.shut_down.discard(step.payload[:1].decode("latin-1"))
