"""As little as it takes: a long script that led to a difference, cut down to what still leads to one."""

import dataclasses

from oracle.duel import DifferenceError, duel
from oracle.ledger import Step


def replay(steps: list[Step]) -> DifferenceError | None:
    """The difference that steps lead to in fresh worlds. Those that make no sense there are left out; a transaction is
    the one that the same request began, whatever its number is now."""
    numbers: dict[tuple[str, int], int] = {}
    with duel() as both:
        try:
            for step in steps:
                now = dataclasses.replace(step, tx_id=numbers.get((step.name, step.tx_id), step.tx_id))
                if both.ledger.allows(now):
                    both.do(now)
                    if step.began:
                        numbers[step.name, step.began] = both.done[-1].began
            both.fence()
        except DifferenceError as e:
            return e
    return None


def shrink(steps: list[Step], found: DifferenceError) -> DifferenceError:
    """The difference with as few of the steps as lead to one, any; pieces are left out, half as big each time.

    If all the steps lead to none when they are done again, it is the one that was found.
    """
    if replay(steps) is None:
        return found
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
    return found
