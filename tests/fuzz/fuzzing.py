"""Fuzzing as a program: cases from a seed, one after the other, until one fails.

    python tests/fuzz/fuzz_wire.py [--seed N] [--first K] [--cases M] [--replay FILE]

A case is a list of steps, each of which JSON can hold. `make` makes one with the dice that it is given, `check` raises
if the program does wrong. Case K of a seed is always the same. One that fails is shortened as far as it still fails,
then printed as one line of JSON, which --replay takes (`-` is standard input).
"""

import argparse
import json
import random
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

Case = list[Any]
Make = Callable[[random.Random], Case]
Check = Callable[[Case], None]

PROGRESS_S: Final = 5.0
EDGES: Final = (0, 1, 2, 15, 16, 255, 4095, 4096, 4097, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutate(dice: random.Random, data: bytes) -> bytes:
    """Bytes with one fault: a number at its edge, a NUL too many or too few, something lost, doubled or changed."""
    at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    word, nul, few = at - at % 4, data.find(b"\0", at), min(end, at + 8)
    return dice.choice(
        [
            data[:word] + struct.pack("<I", dice.choice(EDGES)) + data[word + 4 :],
            data[:at] + b"\0" + data[at:],
            data if nul < 0 else data[:nul] + data[nul + 1 :],
            data[:at],
            data[:end] + data[at:],
            data[:at] + data[end:],
            data[:at] + dice.randbytes(few - at) + data[few:],
        ]
    )


def cut(dice: random.Random, data: bytes) -> list[bytes]:
    """A stream in pieces: all at once, byte by byte, or anyhow."""
    size = dice.choice([len(data) or 1, 1 if len(data) < 2000 else 100, dice.randrange(1, 64), dice.randrange(1, 5000)])
    pieces = []
    while data:
        nr_bytes = dice.randrange(1, size + 1) if dice.random() < 0.5 else size
        pieces.append(data[:nr_bytes])
        data = data[nr_bytes:]
    return pieces


def failure_of(check: Check, case: Case) -> str | None:
    """How a case fails, None if it does not."""
    try:
        check(case)
    except Exception:
        return traceback.format_exc()
    return None


def shorten(check: Check, case: Case) -> Case:
    """Leave out all steps without which the case still fails, larger groups first."""
    size = len(case) // 2
    while size:
        at = 0
        while at < len(case):
            shorter = case[:at] + case[at + size :]
            if failure_of(check, shorter) is None:
                at += size
            else:
                case = shorter
        size //= 2
    return case


def find(make: Make, check: Check, seed: int, first: int, nr_cases: int | None) -> tuple[int, Case] | None:
    """The first case that fails, and its number; None if there is none among so many."""
    number, told_s = first, time.monotonic()
    while nr_cases is None or number < first + nr_cases:
        case = make(random.Random(f"{seed}/{number}"))
        if failure_of(check, case) is not None:
            return number, case
        number += 1
        if time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            print(f"seed {seed}: {number - first} cases, none failed", file=sys.stderr)
    return None


def _report(check: Check, case: Case) -> None:
    case = shorten(check, case)
    print(failure_of(check, case), json.dumps(case), sep="\n")


def main(make: Make, check: Check, arguments: list[str] | None = None) -> int:
    """The program; its exit status says whether a case failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first case")
    parser.add_argument("--cases", type=int, metavar="M", help="how many; without it, until one fails")
    parser.add_argument("--replay", metavar="FILE", help="one case, as it was printed")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        case = json.loads(sys.stdin.read() if options.replay == "-" else Path(options.replay).read_text())
        failure = failure_of(check, case)
        print(failure or "this case does not fail")
        return int(failure is not None)
    print(f"seed {options.seed}", file=sys.stderr)
    found = find(make, check, options.seed, options.first, options.cases)
    if found is None:
        print(f"seed {options.seed}: {options.cases} cases, none failed")
        return 0
    print(f"seed {options.seed}: case {found[0]} fails; again with --seed {options.seed} --first {found[0]} --cases 1")
    _report(check, found[1])
    return 1
