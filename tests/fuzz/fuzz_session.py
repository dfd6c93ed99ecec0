"""Xenstore's core with clients that say anything: domain 0 and guests, several at a time, in any pieces.

A case is a list of steps: [client, "hexadecimal"] sends bytes, [client, number] takes so many bytes of what there is
for it, [client, "reset"] begins anew as a ring does, [client, "leave"] disconnects it, ["time", seconds] lets time
pass, ["die", domid] and ["make", domid] are what the host says of domains. A client whose connection has ended gets a
new one. See fuzzing.py for how to run this, and world.py for what has to hold.
"""

import random
import sys

from fuzzing import Case, cut, main
from requests_grammar import Speaker
from world import CLIENTS, World


def _talk(dice: random.Random, client: int, speaker: Speaker) -> Case:
    """A few requests, one of them perhaps many times."""
    messages = [speaker.request() for _ in range(dice.randrange(1, 12))]
    if dice.random() < 0.05:
        messages += [dice.choice(messages)] * dice.randrange(40)
    return [[client, piece.hex()] for piece in cut(dice, b"".join(messages))[:50]]


def _event(dice: random.Random, client: int) -> Case:
    """Something other than requests."""
    others = [["time", dice.choice([0.001, 1, 30])], ["die", 5], ["make", 5], [client, "reset"], [client, "leave"]]
    takes = [[client, dice.choice([1, 16, 100, 1024, 1 << 16])]] * 9
    return [dice.choice(takes + others)]


def make(dice: random.Random) -> Case:
    """What several clients do, mixed."""
    speakers = [Speaker(dice) for _ in CLIENTS]
    strands = []
    for _ in range(dice.randrange(1, 25)):
        client = dice.randrange(len(CLIENTS))
        strands.append(_talk(dice, client, speakers[client]) if dice.random() < 0.8 else _event(dice, client))
    if dice.random() < 0.5:
        return [step for strand in strands for step in strand]
    case: Case = []
    while strands := [strand for strand in strands if strand]:
        case.append(dice.choice(strands[:4]).pop(0))
    return case


def check(case: Case) -> None:
    """Do the steps, then let everything come to rest."""
    world = World()
    for step in case:
        world.do(step)
        world.check_bounds()
    world.come_to_rest()
    world.check()
    world.everybody_leaves()
    world.check()
    world.check_nothing_left()


if __name__ == "__main__":
    sys.exit(main(make, check))
