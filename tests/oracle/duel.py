"""Both worlds side by side: each step is done in both, and what comes of it must be the same, byte by byte."""

import contextlib
from collections.abc import Iterator
from random import Random

from oracle.differences import EXPLAINED
from oracle.script import Script, Step
from oracle.worlds import DOM0S, GUESTS, Messages, OurWorld, RealWorld

from xenblk.xenstore.wire import Packet, XsMsgType

STEPS_PER_FENCE = 25


class DifferenceError(AssertionError):
    """The worlds answered differently."""


class Duel:
    """Two fresh worlds. `close` ends them."""

    def __init__(self) -> None:
        self.ours = OurWorld()
        self.real = RealWorld()
        self.done: list[Step] = []
        self.explained = [0] * len(EXPLAINED)

    def run(self, chance: Random, nr_steps: int) -> None:
        """Do a script; DifferenceError with all that was done until then."""
        script = Script(chance)
        for i in range(nr_steps):
            self._prepare(script)
            self.do(script.next(), script)
            if i % STEPS_PER_FENCE == STEPS_PER_FENCE - 1:
                self.fence()
        self.fence()

    def _prepare(self, script: Script) -> None:
        script.connected = [*DOM0S, *(guest for guest in GUESTS if self.ours.connected(guest))]

    def do(self, step: Step, script: Script) -> None:
        """One step in both worlds."""
        self.done.append(step)
        if step.what == "ask":
            script.told(step, self._ask(step))
            if step.kind in (XsMsgType.INTRODUCE, XsMsgType.RELEASE):
                script.open.pop(chr(step.payload[0]) if step.payload else "", None)
            return
        domid = int(step.name)
        if step.what == "create":
            self.ours.create(domid)
            self.real.create(domid)
            script.existing.add(step.name)
            script.told(step, None)
            # A new domain is younger than all permissions only if something was written since; see differences.py.
            self._ask(Step("ask", "A", XsMsgType.WRITE, 0, b"/tool/xenstored\0"))
            return
        if step.what == "destroy":
            script.existing.discard(step.name)
            script.open.pop(step.name, None)
        script.told(step, None)
        ours: Messages = getattr(self.ours, step.what)(domid)
        self._compare(step, ours, getattr(self.real, step.what)(domid, ours))

    def _ask(self, step: Step) -> Packet:
        request = Packet(step.kind, len(self.done), step.tx_id, step.payload)
        ours = self.ours.ask(step.name, request)
        try:
            real = self.real.ask(step.name, request, ours)
        except (OSError, TimeoutError) as e:
            raise DifferenceError(f"{self._story()}\n\nours: {_shown(ours)}\nthe real one: {e!r}") from e
        if ours[step.name] != real[step.name]:
            real[step.name] = self._explain(request, ours[step.name], real[step.name])
        self._compare(step, ours, real)
        return next(packet for packet in ours[step.name] if packet.type != XsMsgType.WATCH_EVENT)

    def _explain(self, request: Packet, ours: list[Packet], real: list[Packet]) -> list[Packet]:
        """What ours said, if that is one of the intended differences."""
        for i, row in enumerate(EXPLAINED):
            if row.applies(request, ours, real):
                self.explained[i] += 1
                return ours
        return real

    def fence(self) -> None:
        """Nothing is left that only one of them said."""
        extra = self.real.fence([*DOM0S, *(guest for guest in GUESTS if self.ours.connected(guest))])
        if extra:
            raise DifferenceError(f"{self._story()}\n\nonly the real one said: {_shown(extra)}")

    def _compare(self, step: Step, ours: Messages, real: Messages) -> None:
        if ours != real:
            raise DifferenceError(f"{self._story()}\n\nours: {_shown(ours)}\nthe real one: {_shown(real)}")

    def _story(self) -> str:
        return "\n".join(str(step) for step in self.done)

    def close(self) -> None:
        """End both."""
        self.real.close()


def _shown(messages: Messages) -> str:
    return "; ".join(f"{name}: {[(p.type, p.payload[:200]) for p in packets]}" for name, packets in messages.items())


@contextlib.contextmanager
def duel() -> Iterator[Duel]:
    """A duel that is over at the end."""
    both = Duel()
    try:
        yield both
    finally:
        both.close()


def _makes_sense(step: Step, both: Duel, script: Script) -> bool:
    if step.what in ("ask", "destroy"):
        return both.ours.connected(step.name)
    return (step.name in script.existing) == (step.what != "create")


def replay(steps: list[Step]) -> DifferenceError | None:
    """The difference that steps lead to in fresh worlds."""
    with duel() as both:
        script = Script(Random(0))
        try:
            for step in steps:
                if _makes_sense(step, both, script):
                    both.do(step, script)
            both.fence()
        except DifferenceError as e:
            return e
    return None


def shrink(steps: list[Step]) -> tuple[list[Step], DifferenceError]:
    """As few of the steps as still lead to a difference, any; pieces are left out, half as big each time."""
    found = replay(steps)
    assert found is not None, "the steps lead to no difference when they are done again"
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            again = replay(fewer)
            if again is None:
                at += size
            else:
                steps, found = fewer, again
        size //= 2
    return steps, found
