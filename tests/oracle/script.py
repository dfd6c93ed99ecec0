"""What happens to two xenstores, made up from a source of chance: steps that get into each other's way.

Few paths, few tokens, four or five connections: conflicts, duplicates, watches above and below, permissions that are
lost, quotas that are used up, domains that die and come back. Now and then something malformed.
"""

from collections.abc import Iterator
from random import Random
from typing import Final

from oracle.ledger import Ledger, Step
from oracle.vocabulary import (
    AT_HOME,
    BAD_PATHS,
    LONG_PATHS,
    ONE_PATH,
    OWN_PERMS,
    PATHS,
    PERMS,
    TOKENS,
    TOO_LONG_FOR_GUESTS,
    UNKNOWN,
    VALUES,
    WATCHED,
    WEIGHTS,
    WITHOUT_PATH,
    strings,
)
from oracle.worlds import DOM0S, GUESTS

from xenblk.xenstore.wire import XsMsgType

TRANSACTIONS_MAX: Final = 4


def as_a_toolstack(name: str) -> Iterator[Step]:
    """What makes a domain one that can do something: it is introduced, and has a home and something to share."""
    home = f"/local/domain/{name}"
    yield Step("ask", "A", XsMsgType.INTRODUCE, 0, strings(name, "1", "1"))
    for path, perms in ((home, f"n{name}"), ("/a", "b0"), ("/f", f"n0\0b{name}")):
        yield Step("ask", "A", XsMsgType.MKDIR, 0, strings(path))
        yield Step("ask", "A", XsMsgType.SET_PERMS, 0, strings(path, perms))


class Script:
    """Makes steps up, each of which the ledger allows."""

    def __init__(self, chance: Random, ledger: Ledger) -> None:
        self._chance = chance
        self._ledger = ledger
        self._planned: list[Step] = []

    def next(self) -> Step:
        """Another step."""
        while True:
            step = self._planned.pop(0) if self._planned else self._any()
            if self._ledger.allows(step):
                return step

    def _any(self) -> Step:
        chance, ledger = self._chance, self._ledger
        if chance.random() < (0.02 if ledger.existing else 0.3):
            return self._domain_step()
        guests = sorted(ledger.connected.difference(DOM0S))
        name = chance.choice(guests if guests and chance.random() < 0.5 else DOM0S)
        if (rare := chance.random()) < 0.003:
            return Step("reconnect", chance.choice(DOM0S))
        if rare < 0.006:
            return self._directory_step(name)
        if rare < 0.02:
            return Step("ask", name, chance.choice(UNKNOWN), 0, b"/a\0")
        kind = chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        payload = self._payload(name, kind)
        if chance.random() < 0.02 and kind not in ONE_PATH:
            payload = self._spoil(payload)
        return Step("ask", name, kind, self._transaction(name, kind), payload)

    def _domain_step(self) -> Step:
        chance, name = self._chance, self._chance.choice(GUESTS)
        if name not in self._ledger.existing:
            self._plan(*self._ends(), Step("create", name), *(as_a_toolstack(name) if chance.random() < 0.8 else ()))
        elif (what := chance.choice(("shut_down", "destroy", "release", "target"))) == "release":
            again = as_a_toolstack(name) if chance.random() < 0.8 else ()
            self._plan(*self._ends(), Step("ask", "B", XsMsgType.RELEASE, 0, strings(name)), *again)
        elif what == "target":
            return Step("ask", "B", XsMsgType.SET_TARGET, 0, strings(name, chance.choice(GUESTS)))
        else:
            return Step(what, name)
        return self._planned.pop(0)

    def _plan(self, *steps: Step) -> None:
        self._planned += steps

    def _ends(self) -> list[Step]:
        """Of all transactions."""
        how = self._chance.choice((b"T\0", b"F\0"))
        return [Step("ask", name, XsMsgType.TRANSACTION_END, tx_id, how) for name, tx_id in self._ledger.transacting]

    def _directory_step(self, name: str) -> Step:
        """A directory whose names do not fit a reply is listed in parts."""
        for path in LONG_PATHS[:3]:
            self._plan(Step("ask", "A", XsMsgType.MKDIR, 0, strings(path)))
        for offset in (0, 1901, 3802, 5703, 5705):
            self._plan(Step("ask", name, XsMsgType.DIRECTORY_PART, 0, strings("/f", str(offset))))
        self._plan(Step("ask", name, XsMsgType.DIRECTORY, 0, b"/f\0"))
        return self._planned.pop(0)

    def _transaction(self, name: str, kind: int) -> int:
        """Mostly one that is open."""
        mine = self._ledger.transactions.get(name, [])
        if kind == XsMsgType.TRANSACTION_START and len(mine) < TRANSACTIONS_MAX:
            return 0
        if mine and self._chance.random() < (0.9 if kind == XsMsgType.TRANSACTION_END else 0.5):
            return self._chance.choice(mine)
        return self._chance.choices([0, 1, 77], [30, 1, 1])[0]

    def _path(self, name: str) -> bytes:
        chance, guest = self._chance.random(), name not in DOM0S
        if chance < 0.04:
            paths = BAD_PATHS + TOO_LONG_FOR_GUESTS if guest else BAD_PATHS
        elif chance < 0.06:
            paths = LONG_PATHS
        else:
            paths = AT_HOME if guest and chance < 0.4 else PATHS
        return strings(self._chance.choice(paths))

    def _payload(self, name: str, kind: int) -> bytes:
        chance = self._chance
        if (choices := WITHOUT_PATH.get(XsMsgType(kind))) is not None:
            return chance.choice(choices)
        if kind in (XsMsgType.WATCH, XsMsgType.UNWATCH):
            return self._watch(name, kind)
        if kind == XsMsgType.SET_PERMS:
            return self._permissions(name)
        if kind == XsMsgType.WRITE:
            return self._path(name) + chance.choice(VALUES)
        if kind == XsMsgType.DIRECTORY_PART:
            path = b"/f\0" if chance.random() < 0.3 else self._path(name)
            return path + strings(chance.choice(("0", "0", "2", "1902", "3803", "1000", "-1", "z")))
        return self._path(name)

    def _watch(self, name: str, kind: int) -> bytes:
        chance = self._chance
        if kind == XsMsgType.UNWATCH and (mine := self._ledger.watches.get(name)) and chance.random() < 0.6:
            return chance.choice(mine)
        return strings(chance.choice(WATCHED), chance.choice(TOKENS))

    def _permissions(self, name: str) -> bytes:
        """None of a bad name with an @ in front, and no root that is a guest's; see differences.py."""
        chance = self._chance
        if name not in DOM0S and chance.random() < 0.5:
            return strings(chance.choice(AT_HOME), *self._own_perms(name))
        path = self._path(name)
        if name in DOM0S and chance.random() < 0.1:
            path = chance.choice([b"@releaseDomain\0", b"@introduceDomain\0"])
        elif path.startswith(b"@"):
            path = b"//\0"
        return path + strings(*("n0 b1 b2" if path == b"/\0" else chance.choice(PERMS)).split(" "))

    def _own_perms(self, name: str) -> list[str]:
        letter, *others = self._chance.choice(OWN_PERMS).split(" ")
        return [letter + name, *others]

    def _spoil(self, payload: bytes) -> bytes:
        how = self._chance.randrange(4)
        if how == 0:
            return payload[:-1]
        if how == 1:
            return payload + b"more"
        return payload + b"more\0" if how == 2 else b""
