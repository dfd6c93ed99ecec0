"""The conformance cases on real Xen: our backend, Linux's and QEMU's, each against its table of docs/conformance.md.

By default a few of each, which take no longer than a test should; CONFORM_CASES names others, by patterns, and then
xenblk's other engine has its turn, too. What the document does not have is held against the doubles' tables.
"""

import collections
import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator

import pytest

from lab.backends import Backend
from lab.foreign import linux_backend, qemu_backend
from lab.machine import Machine
from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.doubles.deviations import Deviation
from xenblk.harness.doubles.real_deviations import REAL_DEVIATIONS

Say = Callable[[str], None]
CHOSEN = [pattern for pattern in os.environ.get("CONFORM_CASES", "").split() if pattern.startswith("B-")]
IMAGE = "/run/conform.img"
RUN_S = 3600
PATIENT_S = 60
IMPATIENT_S = 2
"""For what a table says never comes."""
PASS = Deviation("pass", "", "")
FEW = {
    "xenblk native": ("B-XSA1*", "B-XSA2*", "B-CVE-2013-2140", "B-CHECK-00*"),
    "Linux 6.1": ("B-CHECK-00*", "B-HAND-00[1-4]"),
    "QEMU 7.2": ("B-CHECK-00*",),
}


@contextlib.contextmanager
def ours(machine: Machine, engine: str) -> Iterator[list[str]]:
    backend = Backend.start(machine, "--engine", engine, backend_type=f"conform-{engine}")
    yield ["--backend-type", f"conform-{engine}", "--disk", "memory:1M"]
    assert backend.is_running(), backend.log()
    backend.stop()


@contextlib.contextmanager
def linuxs(machine: Machine) -> Iterator[list[str]]:
    with linux_backend(machine):
        yield ["--loop", "--disk", IMAGE]


@contextlib.contextmanager
def qemus(machine: Machine) -> Iterator[list[str]]:
    with qemu_backend(machine) as qemu:
        yield ["--backend-type", qemu.backend_type, "--disk", IMAGE]


BACKENDS: dict[str, Callable[[Machine], contextlib.AbstractContextManager[list[str]]]] = {
    "xenblk native": lambda machine: ours(machine, "native"),
    "xenblk python": lambda machine: ours(machine, "python"),
    "Linux 6.1": linuxs,
    "QEMU 7.2": qemus,
}


@pytest.fixture(scope="module")
def image(dom0: Machine) -> Iterator[str]:
    """A file as disk, and as many grants as a frontend by hand may want."""
    dom0.check(f"truncate -s 1M {IMAGE}")
    limit = "/sys/module/xen_gntalloc/parameters/limit"
    before = dom0.check(f"cat {limit}").strip()
    dom0.check(f"echo 65536 >{limit}")
    yield IMAGE
    dom0.check(f"echo {before} >{limit}; rm {IMAGE}")


def conform(dom0: Machine, words: list[str], cases: list[str], timeout_s: float) -> dict[str, tuple[str, str]]:
    """Verdict and detail by case."""
    if not cases:
        return {}
    which = [word for case in cases for word in ("--case", case)]
    options = ["--platform", "xen", "--json", "--timeout-s", str(timeout_s)]
    said = dom0.run(shlex.join(["xenblk", "conform", *options, *words, *which]), RUN_S)
    return {case["id"]: (case["verdict"], case["detail"]) for case in json.loads(said.output)["cases"]}


@pytest.mark.parametrize("name", REAL_DEVIATIONS if CHOSEN else FEW)
def test_a_backend(dom0: Machine, image: str, say: Say, name: str) -> None:
    table = REAL_DEVIATIONS[name]
    cases = [case.id for case in BACKEND.select(CHOSEN or FEW[name])]
    slow = [case for case in cases if table.get(case, PASS).allows("fail")]
    with BACKENDS[name](dom0) as words:
        found = conform(dom0, words, [case for case in cases if case not in slow], PATIENT_S)
        found |= conform(dom0, words, slow, IMPATIENT_S)
    counts = collections.Counter(verdict for verdict, _ in found.values())
    say(f"{name}: {len(found)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    differences = {
        case: f"{verdict}, not {table.get(case, PASS).verdict}: {detail}"
        for case, (verdict, detail) in found.items()
        if not table.get(case, PASS).allows(verdict)
    }
    assert not differences
    assert counts["pass"]
