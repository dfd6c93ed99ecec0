"""The conformance cases for frontends on real Xen: Linux's xen-blkfront in a guest, against its table.

By default a few; CONFORM_CASES names others, by patterns. The backend is by hand, in domain 0. A guest that a case has
left unusable, as Linux' own faults may, is replaced by another.
"""

import collections
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.guests import create
from lab.machine import Machine
from lab.programs import program_archive
from xenblk.harness.conform.frontend import FRONTEND
from xenblk.harness.doubles.deviations import Deviation
from xenblk.harness.doubles.real_deviations import REAL_FRONTEND_DEVIATIONS

Say = Callable[[str], None]
Found = dict[str, tuple[str, str]]
PROGRAMS = Path(__file__).parent / "programs"
CHOSEN = [pattern for pattern in os.environ.get("CONFORM_CASES", "").split() if pattern.startswith("F-")]
FEW = (
    *("F-STATE-004", "F-KEYS-00[12]", "F-KEYS-011", "F-KEYS-031"),
    *("F-REQ-002", "F-RING-001", "F-RESP-008", "F-GRANT-008"),
)
TABLE = REAL_FRONTEND_DEVIATIONS["Linux 6.1"]
PASS = Deviation("pass", "", "")
RUN_S = 3600
PATIENT_S = 60
IMPATIENT_S = 5
"""For what the table says never comes."""

JOB = """
modprobe -r xen-blkfront
stty raw -echo
exec disk /lib/modules/$(uname -r)/kernel/drivers/block/xen-blkfront.ko
"""
FILES = "/lab/boot/guest.cpio /run/lab/disk.cpio"


@pytest.fixture(scope="module")
def prepared(dom0: Machine) -> Iterator[Machine]:
    """Domain 0 with both programs, and no backend of its own."""
    dom0.put("/run/lab/disk.cpio", program_archive(PROGRAMS / "disk.c"))
    dom0.put("/run/lab/blkfront.py", (PROGRAMS / "blkfront.py").read_bytes())
    dom0.check("[ ! -e /sys/module/xen_blkback ] || modprobe -r xen-blkback")
    yield dom0
    dom0.check("rm /run/lab/disk.cpio /run/lab/blkfront.py")


def conform(dom0: Machine, cases: list[str], timeout_s: float) -> Found:
    """Verdict and detail by case. Two virtual CPUs, for two queues; the kernel keeps its messages to itself."""
    found: Found = {}
    while left := [case for case in cases if case not in found]:
        guest = create(dom0, "blkfront", JOB, vcpus=2, files=FILES, command_line="loglevel=1")
        words = shlex.join(["python3", "/run/lab/blkfront.py", str(guest.domid), str(timeout_s), *left])
        said = dom0.run(words, RUN_S).output
        guest.destroy()
        outcomes = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert outcomes, said
        found |= {outcome["id"]: (outcome["verdict"], outcome["detail"]) for outcome in outcomes}
    return found


def test_linux(prepared: Machine, say: Say) -> None:
    cases = [case.id for case in FRONTEND.select(CHOSEN or FEW)]
    slow = [case for case in cases if TABLE.get(case, PASS).allows("fail")]
    found = conform(prepared, [case for case in cases if case not in slow], PATIENT_S)
    found |= conform(prepared, slow, IMPATIENT_S)
    counts = collections.Counter(verdict for verdict, _ in found.values())
    say(f"Linux 6.1: {len(found)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    differences = {
        case: f"{verdict}, not {TABLE.get(case, PASS).verdict}: {detail}"
        for case, (verdict, detail) in found.items()
        if not TABLE.get(case, PASS).allows(verdict)
    }
    assert not differences
    assert counts["pass"]
