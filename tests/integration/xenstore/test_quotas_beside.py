"""Quotas so small that everything is at its edge, ours and the real daemon side by side: the same is refused with the
same error, outside and inside transactions, and the same is counted after each step.
"""

from random import Random

import pytest
from oracle.scene import OK, Scene

QUOTAS = {"nodes": 7, "node-size": 60, "transaction-nodes": 6, "watches": 2, "transactions": 1, "permissions": 2}
PATHS = ("a", "a/b", "a/b/c", "a/long-name", "d", "d/e/f/g", "/shared/x", "/shared/x/y")
KINDS = ("WRITE", "WRITE", "WRITE", "MKDIR", "RM", "SET_PERMS", "READ", "DIRECTORY")
VALUES = ("", "v" * 10, "v" * 27, "v" * 28)
PERMS = ("n{}|", "b{}|r0|", "n{}|r0|w2|")

pytestmark = pytest.mark.parametrize("scene", ["beside the real one"], indirect=True)


class Story:
    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene, self._chance = scene, Random(seed)
        self._open: dict[str, list[int]] = {"1": [], "2": []}
        self._arrange()

    def _arrange(self) -> None:
        self._scene.ask("A", "MKDIR", "/shared|")
        self._scene.ask("A", "SET_PERMS", "/shared|b0|")
        for domid in (1, 2):
            self._scene.home(domid)

    def step(self) -> None:
        who = self._chance.choice("12")
        what = self._chance.choices(
            (self._change, self._start, self._end, self._watch, self._die), weights=(20, 3, 3, 2, 0.3)
        )[0]
        what(who)
        for name in ("nodes", "watches", "transactions"):
            self._scene.used(int(who), name)

    def _change(self, who: str) -> None:
        tx = self._chance.choice([0, *self._open[who]])
        kind, path = self._chance.choice(KINDS), self._chance.choice(PATHS)
        rest = {"WRITE": self._chance.choice(VALUES), "SET_PERMS": self._chance.choice(PERMS).format(who)}.get(kind, "")
        self._scene.ask(who, kind, f"{path}|{rest}", tx)

    def _start(self, who: str) -> None:
        answer = self._scene.ask(who, "TRANSACTION_START", "|")
        if isinstance(answer, bytes):
            self._open[who].append(int(answer[:-1]))

    def _end(self, who: str) -> None:
        if self._open[who]:
            tx = self._open[who].pop(self._chance.randrange(len(self._open[who])))
            self._scene.ask(who, "TRANSACTION_END", self._chance.choice(["T|", "T|", "T|", "F|"]), tx)

    def _watch(self, who: str) -> None:
        kind = self._chance.choice(["WATCH", "WATCH", "UNWATCH"])
        self._scene.ask(who, kind, f"{self._chance.choice(PATHS)}|t|")

    def _die(self, who: str) -> None:
        self._scene.destroy(int(who))
        self._open[who].clear()
        self._scene.create(int(who))
        self._arrange()


@pytest.mark.parametrize("seed", range(8))
def test_small_quotas(scene: Scene, seed: int) -> None:
    for name, value in QUOTAS.items():
        scene.quota(name, value)
    story = Story(scene, seed)
    for _ in range(300):
        story.step()


def test_sizes(scene: Scene) -> None:
    """The largest value of a node without children, and the longest path."""
    scene.home(1)
    deep = "/".join(["p" * 511] * 4)
    for tx in (0, scene.start("1")):
        assert scene.ask("1", "WRITE", f"a|{'v' * 2015}", tx) == OK
        assert scene.ask("1", "WRITE", f"a|{'v' * 2016}", tx) == "ENOSPC"
        assert scene.ask("1", "WRITE", f"{deep}p|", tx) == OK
        assert scene.ask("1", "WRITE", f"{deep}pp|", tx) == "EINVAL"
