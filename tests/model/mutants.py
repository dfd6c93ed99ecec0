"""Mistakes that the model must find: lines of the C code, each made weaker or wrong, and where that loses a wake-up."""

import dataclasses
from typing import Final

RING: Final = "ring/sring.c"
EVTCHN: Final = "xenblk/emulated/evtchn.c"

BOTH: Final = ("tso", "weak")
WEAK: Final = ("weak",)
NONE: Final = ()

_P: Final = "__atomic_store_n(prod, new_, __ATOMIC_SEQ_CST);"
_W: Final = "notify = xb_ring_must_notify(old, new_, __atomic_load_n(event, __ATOMIC_SEQ_CST));"
_C: Final = "return __atomic_load_n(prod, __ATOMIC_ACQUIRE);"
_S: Final = "__atomic_store_n(event, cons + 1, __ATOMIC_SEQ_CST);"
_R: Final = "return __atomic_load_n(prod, __ATOMIC_SEQ_CST) != cons;"
_SET: Final = "__atomic_fetch_or(word, XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);"
_CLEAR: Final = "__atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);"
_WAIT: Final = """\
    if (timeout_ns < 0)
        sleep_until_read(port->fd);
    else
        sleep_until_readable(port->fd, timeout_ns);
    if (xb_evtchn_clear_pending(port->word)) {
"""
_WAIT_CLEARING_FIRST: Final = """\
    int woken = ppoll(NULL, 1, &(struct timespec){0}, NULL);
    int taken = xb_evtchn_clear_pending(port->word);
    uint64_t count;

    if (woken && read(port->fd, &count, sizeof(count)) && taken) {
"""


def _weaker(line: str, order: str) -> tuple[str, str]:
    return line, line.replace("SEQ_CST", order).replace("ACQUIRE", order)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """`replacements` of text in `file`; it fails on the machines `fails_on`, and on others not, because of `why`."""

    name: str
    file: str
    replacements: tuple[tuple[str, str], ...]
    fails_on: tuple[str, ...] = BOTH
    why: str = ""


MUTANTS: Final = (
    Mutant("P release", RING, (_weaker(_P, "RELEASE"),)),
    Mutant("P relaxed", RING, (_weaker(_P, "RELAXED"),)),
    Mutant("W acquire", RING, (_weaker(_W, "ACQUIRE"),)),
    Mutant("W relaxed", RING, (_weaker(_W, "RELAXED"),)),
    Mutant("W before P", RING, ((_P, ""), (_W, _W + _P))),
    Mutant("C relaxed", RING, (_weaker(_C, "RELAXED"),), WEAK, "x86 does not reorder loads"),
    Mutant("S release", RING, (_weaker(_S, "RELEASE"),)),
    Mutant("S relaxed", RING, (_weaker(_S, "RELAXED"),)),
    Mutant("R acquire", RING, (_weaker(_R, "ACQUIRE"),)),
    Mutant("R relaxed", RING, (_weaker(_R, "RELAXED"),)),
    Mutant("no S", RING, ((_S, ""),)),
    Mutant("no R", RING, ((_R, "return 0;"),)),
    Mutant("R before S", RING, ((_S, ""), (_R, f"int found = {_R[7:]} {_S} return found;"))),
    Mutant("event not past cons", RING, (("event, cons + 1,", "event, cons,"),)),
    Mutant(
        "event must be hit", RING, (("(uint32_t)(new_ - event) < (uint32_t)(new_ - old)", "(void)old, new_ == event"),)
    ),
    Mutant("cleared before read", EVTCHN, ((_WAIT, _WAIT_CLEARING_FIRST),)),
    Mutant("never cleared", EVTCHN, ((_CLEAR, "XB_EVTCHN_PENDING;"),)),
    Mutant(
        "set relaxed",
        EVTCHN,
        (_weaker(_SET, "RELAXED"),),
        NONE,
        "[W] has waited for [P]; the xenstore's rings have no [W] and need it",
    ),
    Mutant(
        "clear relaxed",
        EVTCHN,
        (_weaker(_CLEAR, "RELAXED"),),
        NONE,
        "[R] looks again, after [S], which no earlier access passes; the xenstore's rings have no [R] and need it",
    ),
)
