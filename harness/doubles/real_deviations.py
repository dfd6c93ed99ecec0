"""Which cases do not end in a pass on real Xen: for the drivers that the doubles stand for, and our backend.

An original is held to its double's table, but for what such a run cannot see.
"""

import fnmatch
from collections.abc import Mapping
from typing import Final

from xenblk.harness.doubles.backend_deviations import BACKEND_DEVIATIONS
from xenblk.harness.doubles.deviations import FAIL, NOT_OFFERED, NOT_RUN, Deviation, Deviations, rows, union
from xenblk.harness.doubles.frontend_deviations import FRONTEND_DEVIATIONS

_OURS: Final = "xenblk"
_NOT_RUN: Final = Deviation(NOT_RUN, "the lab has not run it", "`make xen-conform`")

_UNSEEN: Final = union(
    rows(
        NOT_OFFERED,
        "B-HAND-013 B-INDIRECT-018 B-LIFE-007 B-PERSIST-001 B-PERSIST-003..005 B-PERSIST-010..011",
        "who maps a page cannot be seen",
        "Linux drivers/xen/gntalloc.c",
    ),
    rows(NOT_OFFERED, "B-HAND-021", "domain 0 may write everything", "xen tools/xenstore"),
    rows(NOT_OFFERED, "B-LIFE-013..017", "domain 0 does not die while it runs cases", "real Xen's guests are domain 0"),
    rows(NOT_OFFERED, "B-CHECK-022", "Linux grants no frame that is not there", "Linux drivers/xen/gntalloc.c"),
)
"""What nobody can be seen to do in a run that has no domain but domain 0."""

OURS: Final = union(
    rows(NOT_OFFERED, "B-WRITE-008", "the disk has sectors of 512 bytes", "sector-size is the disk's"),
    rows(
        NOT_OFFERED,
        "B-BARRIER-007 B-DISCARD-010 B-FLUSH-007 B-INDIRECT-022 B-PERSIST-006",
        "it has what the case is about the lack of",
        _OURS,
    ),
    rows(NOT_OFFERED, "B-DISCARD-005", "discard-secure is 1 on a disk of memory", _OURS),
    rows(NOT_OFFERED, "B-INDIRECT-020", "256 segments are in one indirect page", _OURS),
)
"""Ours, with either engine, on a disk of memory and with several queues, on whichever Xen."""

_ONE_CPU: Final = rows(NOT_OFFERED, "B-QUEUE-001..009", "one CPU is worth one queue", _OURS)

_QEMU_ITSELF: Final = rows(
    FAIL,
    "B-CHECK-025..026",
    "a file in mode r is not served: `Block node is read-only` (its double serves it)",
    "QEMU hw/block/xen-block.c xen_disk_realize",
)
"""Where the original is not as its double."""


def _on_real_xen(table: Deviations) -> Deviations:
    """What cannot be seen there is not-offered, whatever else it would be."""
    return {**{case: deviation for case, deviation in table.items() if case not in _UNSEEN}, **_UNSEEN}


REAL_DEVIATIONS: Final[Mapping[str, Deviations]] = {
    "xenblk native": _on_real_xen(union(OURS, _ONE_CPU)),
    "xenblk python": _on_real_xen(union(OURS, _ONE_CPU)),
    "Linux 6.1": _on_real_xen(BACKEND_DEVIATIONS["linux"]),
    "QEMU 7.2": _on_real_xen(union(BACKEND_DEVIATIONS["qemu"], _QEMU_ITSELF)),
}
"""By what is tested."""

_ABOVE_BLKFRONT: Final = union(
    rows(
        FAIL,
        "F-REQ-006",
        "a write across the end of the disk is cut there, and what is left of it sent",
        "Linux block/fops.c blkdev_write_iter",
    ),
    rows(
        FAIL,
        "F-LIFE-004",
        "a discard that the driver refuses is a success for its user",
        "Linux block/blk-lib.c blkdev_issue_discard",
    ),
)
"""Where what is above the driver decides: a double has nothing above it."""

REAL_FRONTEND_DEVIATIONS: Final[Mapping[str, Deviations]] = {
    "Linux 6.1": union(FRONTEND_DEVIATIONS["linux"], _ABOVE_BLKFRONT)
}
"""By what is tested."""

_FRONTEND_NOT_RUN: Final = rows(
    NOT_RUN,
    "F-LIFE-025..027 F-RESP-009 F-RESP-020..031 F-RESP-033 F-GRANT-012",
    _NOT_RUN.why,
    _NOT_RUN.source,
)
"""Most of these leave a guest without disks, and each then needs another one."""

_ADVISORIES: Final = ("B-XSA1*", "B-XSA2*", "B-XSA33*", "B-CVE-2013-2140")
REAL_CASES: Final[Mapping[str, tuple[str, ...]]] = {
    "xenblk native": (*_ADVISORIES, "B-XSA35*", "B-XSA36*", "B-XSA4*", "B-XSA-*", "B-CVE-2010-*"),
    "Linux 6.1": (*_ADVISORIES, "B-CHECK-*", "B-HAND-*"),
    "QEMU 7.2": ("B-CHECK-*", "B-HAND-00[1-8]"),
}
"""The cases that each is held to in the lab, by patterns; the others take longer than a test should."""


def held_to() -> Mapping[str, Deviations]:
    """The rows of these cases, and of those that others are held to."""
    known = {
        name: {case: row for case, row in table.items() if _is_run(name, case)}
        for name, table in REAL_DEVIATIONS.items()
        if name in REAL_CASES
    }
    cases = {case for table in known.values() for case in table}
    return {
        name: {**table, **{case: _NOT_RUN for case in sorted(cases) if not _is_run(name, case)}}
        for name, table in known.items()
    }


def frontends_held_to() -> Mapping[str, Deviations]:
    """The rows of frontends' cases that were run, and which were not."""
    return {name: {**table, **_FRONTEND_NOT_RUN} for name, table in REAL_FRONTEND_DEVIATIONS.items()}


def _is_run(name: str, case: str) -> bool:
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in REAL_CASES[name])
