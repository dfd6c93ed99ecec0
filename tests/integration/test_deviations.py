"""Each double of a known driver passes the conformance cases that its original would, and no other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.conform.backend.run import run_backend_cases, serving
from xenblk.harness.conform.case import Case, Outcome, Registry, Verdict, run_cases
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.conform.frontend import FRONTEND, frontend_kind
from xenblk.harness.conform.frontend.run import emulated_lab
from xenblk.harness.doubles import BACKENDS, FRONTENDS
from xenblk.harness.doubles.backend_deviations import BACKEND_DEVIATIONS
from xenblk.harness.doubles.deviations import EITHER, FAIL, Deviation, Deviations
from xenblk.harness.doubles.frontend_deviations import FRONTEND_DEVIATIONS
from xenblk.harness.doubles.published import tables
from xenblk.harness.wire.deadline import patience
from xenblk.processes import HostProcess

# A case that fails does so by waiting for what does not come. Where that is expected, it need not wait long; all others
# have the time that a busy machine takes.
IMPATIENT_S, PATIENT_S = 0.25, 60.0
PASS = Deviation(Verdict.PASS, "", "")


def differences(outcomes: list[Outcome[Any]], table: Deviations) -> dict[str, str]:
    """Which cases ended otherwise than the table says, and how."""
    return {
        outcome.case.id: f"{outcome.verdict.value}, not {expected.verdict}: {outcome.detail}"
        for outcome in outcomes
        if not (expected := table.get(outcome.case.id, PASS)).allows(outcome.verdict)
    }


def parts(registry: Registry[Any], table: Deviations) -> Iterator[tuple[float, list[Case[Any]]]]:
    """All cases: those that are done when they are, and those that need not be waited for."""
    cases = registry.select()
    assert table.keys() <= {case.id for case in cases}
    expected = {case.id: table.get(case.id, PASS).verdict in (FAIL, EITHER) for case in cases}
    yield PATIENT_S, [case for case in cases if not expected[case.id]]
    yield IMPATIENT_S, [case for case in cases if expected[case.id]]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend(name: str) -> None:
    found: list[Outcome[Any]] = []
    with serving(name) as run_dir:
        for timeout_s, cases in parts(BACKEND, BACKEND_DEVIATIONS[name]):
            with patience(timeout_s):
                found += run_backend_cases(EmulatedXen(run_dir), cases)
    assert not differences(found, BACKEND_DEVIATIONS[name])


@pytest.fixture(scope="module")
def xen() -> Iterator[EmulatedXen]:
    """A Xen in which nobody serves disks."""
    with HostProcess() as host, EmulatedXen(host.run_dir) as entered:
        yield entered


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_frontend(xen: EmulatedXen, name: str) -> None:
    found: list[Outcome[Any]] = []
    with emulated_lab(frontend_kind(name), xen) as lab:
        for timeout_s, cases in parts(FRONTEND, FRONTEND_DEVIATIONS[name]):
            with patience(timeout_s):
                found += run_cases(cases, lab.stage)
    assert not differences(found, FRONTEND_DEVIATIONS[name])


def test_every_double_has_a_table() -> None:
    assert [*BACKEND_DEVIATIONS] == [*BACKENDS]
    assert [*FRONTEND_DEVIATIONS] == [*FRONTENDS]


def test_the_tables_are_published() -> None:
    published = Path(__file__).parents[2] / "docs/conformance.md"
    assert published.read_text().endswith(tables()), (
        "python -m xenblk.harness.doubles.published has what is to be there"
    )
