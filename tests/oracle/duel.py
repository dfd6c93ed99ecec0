"""Both worlds side by side: each step is done in both, and what comes of it must be the same, byte by byte."""

import contextlib
import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Final

from oracle.differences import EXPLAINED
from oracle.ledger import Ledger, Step, began_by
from oracle.script import Script
from oracle.tally import Tally
from oracle.worlds import DOM0S, Messages, OurWorld, RealWorld

from xenblk.xenstore.wire import Packet, XsMsgType

STEPS_PER_FENCE: Final = 25


class DifferenceError(AssertionError):
    """The worlds answered differently."""


class Duel:
    """Two fresh worlds. `close` ends them. What was the same goes into `tally`."""

    def __init__(self, tally: Tally) -> None:
        self.ours = OurWorld()
        self.real = RealWorld()
        self.tally = tally
        self.ledger = Ledger()
        self.done: list[Step] = []

    def run(self, chance: Random, nr_steps: int) -> None:
        """Do a script; DifferenceError with all that was done until then."""
        script = Script(chance, self.ledger)
        for i in range(nr_steps):
            self.do(script.next())
            if i % STEPS_PER_FENCE == STEPS_PER_FENCE - 1:
                self.fence()
        self.fence()

    def do(self, step: Step) -> None:
        """One step in both worlds."""
        self.done.append(step)
        reply = self._ask(step) if step.what == "ask" else self._befall(step)
        self.ledger.note(step, reply)
        self.done[-1] = dataclasses.replace(step, began=began_by(step, reply))
        if step.what == "create" or step.kind == XsMsgType.RELEASE:
            # A new domain is younger than all permissions only if something was written since; see differences.py.
            self._ask(Step("ask", "A", XsMsgType.WRITE, 0, b"/tool/xenstored\0"))

    def _befall(self, step: Step) -> None:
        self.tally.befallen[step.what] += 1
        if step.what == "reconnect":
            self.fence()
        with self._blame():
            ours: Messages = getattr(self.ours, step.what)(step.name)
        with self._patience(ours):
            real = getattr(self.real, step.what)(step.name, ours)
        self._compare(ours, real)

    def _ask(self, step: Step) -> Packet:
        request = Packet(step.kind, len(self.done), step.tx_id, step.payload)
        with self._blame():
            ours = self.ours.ask(step.name, request)
        with self._patience(ours):
            real = self.real.ask(step.name, request, ours)
        if ours[step.name] != real[step.name]:
            real[step.name] = self._explain(request, ours[step.name], real[step.name])
        self._compare(ours, real)
        reply = next(packet for packet in ours[step.name] if packet.type != XsMsgType.WATCH_EVENT)
        self.tally.answered(request, _who(step.name), reply)
        return reply

    @contextlib.contextmanager
    def _blame(self) -> Iterator[None]:
        """If ours fails, that is a difference."""
        try:
            yield
        except Exception as e:
            raise DifferenceError(f"{self._story()}\n\nours: {e!r}") from e

    @contextlib.contextmanager
    def _patience(self, ours: Messages) -> Iterator[None]:
        """What the real one does not say in time, or because it is not there any more, is a difference."""
        try:
            yield
        except OSError as e:
            raise DifferenceError(f"{self._story()}\n\nours: {_shown(ours)}\nthe real one: {e!r}") from e

    def _explain(self, request: Packet, ours: list[Packet], real: list[Packet]) -> list[Packet]:
        """What ours said, if that is one of the intended differences."""
        for i, row in enumerate(EXPLAINED):
            if row.applies(request, ours, real):
                self.tally.explained[i] += 1
                return ours
        return real

    def fence(self) -> None:
        """Nothing is left that only one of them said."""
        with self._patience({}):
            extra = self.real.fence(sorted(self.ledger.connected))
        if extra:
            raise DifferenceError(f"{self._story()}\n\nonly the real one said: {_shown(extra)}")

    def _compare(self, ours: Messages, real: Messages) -> None:
        if ours != real:
            raise DifferenceError(f"{self._story()}\n\nours: {_shown(ours)}\nthe real one: {_shown(real)}")
        self.tally.steps += 1
        for name, packets in ours.items():
            self.tally.told(_who(name), packets)

    def _story(self) -> str:
        return "\n".join(str(step) for step in self.done)

    def close(self) -> None:
        """End both."""
        self.real.close()


def _who(name: str) -> str:
    return "domain 0" if name in DOM0S else "guest"


def _shown(messages: Messages) -> str:
    return "; ".join(f"{name}: {[(p.type, p.payload[:200]) for p in packets]}" for name, packets in messages.items())


@contextlib.contextmanager
def duel(tally: Tally | None = None) -> Iterator[Duel]:
    """A duel that is over at the end."""
    both = Duel(tally or Tally())
    try:
        yield both
    finally:
        both.close()
