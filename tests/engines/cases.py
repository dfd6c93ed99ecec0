"""Requests for both engines, good and bad, from dice; see twins.py for the steps."""

import random
from typing import Any

from engines.twins import (
    BAD_FRAME,
    DISK_SECTORS,
    FIRST_GOOD,
    FOREIGN,
    GTF_PERMIT_ACCESS,
    GTF_READONLY,
    NR_DATA_FRAMES,
    NR_GOOD,
    READONLY,
    UNGRANTED,
    Setup,
)

READ, WRITE, FLUSH = 0, 1, 3
EDGES = (DISK_SECTORS - 8, DISK_SECTORS - 1, DISK_SECTORS, 1 << 32, (1 << 63) - 1, (1 << 64) - 8, (1 << 64) - 1)
BAD_REFS = (0, FOREIGN, BAD_FRAME, UNGRANTED, 511, 512, 1 << 31, (1 << 32) - 1)


def make_setup(dice: random.Random) -> dict[str, Any]:
    """Every mode there is."""
    in_any_order = dice.random() < 0.25
    persistent = dice.random() < 0.7
    setup = {
        "x86_32": dice.random() < 0.5,
        "page_order": dice.choice([0, 0, 1, 2]),
        "persistent": persistent,
        "limit": dice.choice([0, 1, 3, 12, 100, 100, 120, 1056]),
        "unused_s": dice.choice([0, 1, 10]),
        "grant_copy": dice.random() < 0.3,
        "read_only": dice.random() < 0.1,
        "disk": dice.choice(["file", "direct"] if in_any_order else ["memory", "memory", "tmpfs"]),
    }
    setup["charged"] = dice.random() < 0.3
    setup["records_per_page"] = 32 if in_any_order and setup["charged"] else dice.choice([1, 3, 32])
    if not in_any_order:
        setup["maptrack_entries"] = dice.choice([5, 40, 512, 512, 512])
    return setup


def _sectors(dice: random.Random) -> list[int]:
    if dice.random() < 0.4:
        return [0, 7]
    return sorted(dice.randrange(8) for _ in range(2))


def _segment(dice: random.Random, refs: range, evil: float) -> list[int]:
    if dice.random() >= evil:
        return [dice.choice(refs), *_sectors(dice)]
    return dice.choice(
        [
            [dice.choice(refs), dice.randrange(256), dice.randrange(256)],
            [dice.choice(BAD_REFS), *_sectors(dice)],
            [READONLY + dice.randrange(10), *_sectors(dice)],
        ]
    )


def _request(dice: random.Random, number: int, refs: range) -> list[Any]:
    """One that may be wrong in any way."""
    evil = dice.choice([0, 0, 0, 0.1])
    operation = dice.choice([READ, READ, READ, WRITE, WRITE, WRITE, FLUSH, dice.randrange(256)])
    count = (
        dice.choice([0, 1, 1, 2, 5, 11]) if operation == FLUSH else dice.choice([1, 1, 2, 3, 11, dice.randrange(12)])
    )
    segments = [_segment(dice, refs, evil) for _ in range(count)]
    if segments and dice.random() < 0.1:
        segments[-1][0] = segments[0][0]
    lie = dice.choice([12, 255, dice.randrange(256)]) if dice.random() < 0.05 else count
    sector = dice.choice(EDGES) if dice.random() < 0.05 else dice.randrange(DISK_SECTORS - 60)
    return ["ask", operation, lie, sector, number, segments]


def _batch(dice: random.Random) -> list[list[Any]]:
    """Up to a ring's worth, perhaps of few references."""
    start = dice.randrange(NR_GOOD)
    refs = range(FIRST_GOOD + start, FIRST_GOOD + min(NR_GOOD, start + dice.choice([2, 20, NR_GOOD])))
    count = dice.choice([0, 1, 1, 2, 3, 4, 5, 8, 31, 40, 140])
    steps = [_request(dice, dice.getrandbits(64), refs) for _ in range(count)]
    if dice.random() < 0.1:
        steps.append(["raw", dice.randbytes(112).hex()])
    return [*steps, ["serve"]]


class _Shares:
    """References, frames and sectors, each given to one request of a batch only."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._refs = dice.sample(range(FIRST_GOOD, FIRST_GOOD + NR_DATA_FRAMES), NR_DATA_FRAMES)
        self._sector = 0

    def segments(self) -> list[list[int]]:
        count = min(len(self._refs), self._dice.choice([1, 1, 2, 3, 11]))
        return [[self._refs.pop(), *_sectors(self._dice)] for _ in range(count)]

    def sector(self, segments: list[list[int]]) -> int | None:
        """Where so many sectors are free; None if that is nowhere."""
        size = sum(last - first + 1 for _, first, last in segments)
        at = self._sector + self._dice.randrange(4)
        self._sector = at + size
        return at if self._sector <= DISK_SECTORS else None


def _shared_nothing(dice: random.Random) -> list[list[Any]]:
    """A batch for a file whose requests overtake each other."""
    if dice.random() < 0.2:
        segments = _Shares(dice).segments()
        return [["ask", FLUSH, len(segments), dice.randrange(100), dice.getrandbits(64), segments], ["serve"]]
    shares, steps = _Shares(dice), []
    for _ in range(dice.choice([1, 2, 5, 20])):
        operation = dice.choice([READ, READ, WRITE, WRITE, FLUSH, dice.randrange(256)])
        segments = [] if operation == FLUSH else shares.segments()
        sector = shares.sector(segments)
        evil = dice.random() < 0.1
        if segments and evil:
            segments[-1][0] = dice.choice(BAD_REFS)
        if sector is not None and (segments or operation == FLUSH):
            steps.append(["ask", operation, len(segments), sector, dice.getrandbits(64), segments])
    return [*steps, ["serve"]]


def _event(dice: random.Random) -> list[Any]:
    """Something other than requests."""
    ref = dice.choice([dice.randrange(FIRST_GOOD, FIRST_GOOD + NR_GOOD), READONLY, UNGRANTED, UNGRANTED + 1])
    flags = dice.choice([0, GTF_PERMIT_ACCESS, GTF_PERMIT_ACCESS, GTF_PERMIT_ACCESS | GTF_READONLY])
    return dice.choice(
        [
            ["grant", ref, flags, dice.choice([0, 0, 0, 9]), dice.choice([1 + dice.randrange(NR_DATA_FRAMES), 64])],
            ["fill", 1 + dice.randrange(NR_DATA_FRAMES), dice.randrange(1000)],
            ["time", dice.choice([1, 1, 5, 10])],
            ["purge"],
            ["purge"],
            ["charge", dice.choice([1, 2, 33, 200])],
            ["event", dice.choice([0, 1, 2, 5, 33, 1 << 31, (1 << 32) - 1])],
        ]
    )


def make(dice: random.Random) -> list[list[Any]]:
    """A guest's life with both engines."""
    setup = make_setup(dice)
    in_any_order = Setup(**setup).in_any_order
    case: list[list[Any]] = [["setup", setup], ["charge", dice.choice([0, 1, 100])]]
    for _ in range(dice.randrange(2, 12)):
        for _ in range(dice.randrange(5)):
            event = _event(dice)
            if not (in_any_order and event[0] == "grant"):  # which may give two requests the same frame
                case.append(event)
        # Requests that nobody charged for would be served with the next batch, and share something with it.
        case += [["charge", 200], *_shared_nothing(dice)] if in_any_order else _batch(dice)
    if dice.random() < 0.1:
        case.append(["break", dice.choice([1 << 12, 1 << 31, (1 << 32) - 1])])
    return case
