"""Requests for both engines, good and bad, from dice; see twins.py for the steps."""

import random
from typing import Any

from engines.sides import (
    BAD_FRAME,
    DISK_SECTORS,
    FIRST_GOOD,
    FIRST_TABLE,
    FOREIGN,
    GTF_PERMIT_ACCESS,
    GTF_READONLY,
    NR_DATA_FRAMES,
    NR_GOOD,
    NR_TABLES,
    READONLY,
    UNGRANTED,
    Setup,
)

READ, WRITE, BARRIER, FLUSH, DISCARD = 0, 1, 2, 3, 5
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
        "sector_size": dice.choice([512, 512, 512, 4096]),
        "max_indirect_segments": dice.choice([0, 11, 32, 256, 256, 1024]),
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


def _place(dice: random.Random, size: int) -> int:
    """A sector from which so many are on the disk, mostly; often one that is right for 4096 too."""
    if dice.random() < 0.05:
        return dice.choice(EDGES)
    sector = dice.randrange(max(1, DISK_SECTORS - size))
    return sector if dice.random() < 0.5 else sector & ~7


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


def _direct(dice: random.Random, number: int, refs: range) -> list[Any]:
    """One that may be wrong in any way."""
    evil = dice.choice([0, 0, 0, 0.1])
    operation = dice.choice([READ, READ, READ, WRITE, WRITE, WRITE, FLUSH, BARRIER, dice.randrange(256)])
    count = dice.choice([0, 1, 1, 2, 5, 11]) if operation in (FLUSH, BARRIER) else dice.choice([1, 1, 2, 3, 11, 7])
    segments = [_segment(dice, refs, evil) for _ in range(count)]
    if segments and dice.random() < 0.1:
        segments[-1][0] = segments[0][0]
    lie = dice.choice([12, 255, dice.randrange(256)]) if dice.random() < 0.05 else count
    return ["ask", operation, lie, _place(dice, 60), number, segments]


def _indirect(dice: random.Random, number: int, refs: range) -> list[Any]:
    """The same in pages of their own."""
    evil = dice.choice([0, 0, 0, 0.01])
    operation = dice.choice([*[READ, WRITE] * 4, dice.randrange(256)])
    count = dice.choice([1, 5, 11, 12, 22, 23, 32, 33, 100, 256, 257, 512, 513, 600])
    whole = dice.random() < 0.3
    segments = [_segment(dice, refs, evil) for _ in range(count)]
    for segment in segments if count > 40 else []:
        segment[1:] = [0, 0]
    for segment in segments if whole else []:
        segment[1:] = [0, 7]
    lie = dice.choice([0, 4096, 4097, 65535, dice.randrange(600)]) if dice.random() < 0.05 else count
    wrong = [dice.choice([*BAD_REFS, READONLY, FIRST_TABLE])] if dice.random() < 0.05 else []
    return ["indirect", operation, lie, _place(dice, count * 2), number, segments, wrong]


def _discard(dice: random.Random, number: int) -> list[Any]:
    count = dice.choice([0, 1, 7, 8, 16, 100, *EDGES])
    return ["discard", _place(dice, min(count, 100)), count, number, dice.choice([0, 0, 1, 255])]


def _request(dice: random.Random, number: int, refs: range) -> list[Any]:
    kind = dice.random()
    if kind < 0.1:
        return _discard(dice, number)
    return _indirect(dice, number, refs) if kind < 0.3 else _direct(dice, number, refs)


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

    def segments(self, whole: bool) -> list[list[int]]:
        count = min(len(self._refs), self._dice.choice([1, 1, 2, 3, 11, 20]))
        return [[self._refs.pop(), *([0, 7] if whole else _sectors(self._dice))] for _ in range(count)]

    def sector(self, size: int) -> int | None:
        """Where so many sectors are free; None if that is nowhere."""
        at = -(-(self._sector + self._dice.randrange(4)) // 8) * 8
        self._sector = at + size
        return at if self._sector <= DISK_SECTORS else None


def _size(segments: list[list[int]]) -> int:
    return sum(last - first + 1 for _, first, last in segments)


def _shared_nothing(dice: random.Random) -> list[list[Any]]:
    """A batch for a file whose requests overtake each other."""
    whole = dice.random() < 0.5
    if dice.random() < 0.2:
        segments = _Shares(dice).segments(whole)[:11]
        operation = dice.choice([FLUSH, BARRIER])
        return [["ask", operation, len(segments), dice.randrange(100), dice.getrandbits(64), segments], ["serve"]]
    shares, steps = _Shares(dice), []
    for _ in range(dice.choice([1, 2, 5, NR_TABLES])):
        operation = dice.choice([READ, READ, WRITE, WRITE, FLUSH, BARRIER, DISCARD, dice.randrange(7, 256)])
        number = dice.getrandbits(64)
        if operation in (FLUSH, BARRIER):
            steps.append(["ask", operation, 0, dice.randrange(100), number, []])
            continue
        segments = shares.segments(whole)
        sector = shares.sector(_size(segments))
        if not segments or sector is None:
            continue
        if dice.random() < 0.1:
            segments[-1][0] = dice.choice(BAD_REFS)
        if operation == DISCARD:
            steps.append(["discard", sector, _size(segments), number, 0])
        elif len(segments) > 11 or dice.random() < 0.3:
            steps.append(["indirect", operation, len(segments), sector, number, segments, []])
        else:
            steps.append(["ask", operation, len(segments), sector, number, segments])
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
            ["change", "max_persistent_grants", dice.choice([0, 1, 3, 12, 100, 1056])],
            ["change", "persistent_grant_unused_seconds", dice.choice([0, 1, 10])],
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
