"""Our frontend passes the conformance cases for frontends, with either engine; and the cases can fail."""

import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from xenblk.blkif import BlkifOp
from xenblk.engines import ENGINES
from xenblk.harness.conform.case import Outcome, Verdict, run_cases
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.conform.frontend import FRONTEND, FrontendKind, frontend_kind
from xenblk.harness.conform.frontend.run import emulated_lab
from xenblk.harness.conform.frontend.stage import PROPERTIES
from xenblk.harness.conform.frontend.subject import BlkfrontUnderTest
from xenblk.platform import Platform
from xenblk.processes import HostProcess


@pytest.fixture(scope="module")
def xen() -> Iterator[EmulatedXen]:
    """A Xen in which nobody serves disks."""
    with HostProcess() as host, EmulatedXen(host.run_dir) as entered:
        yield entered


def run(xen: EmulatedXen, kind: FrontendKind, *patterns: str) -> list[Outcome[Any]]:
    with emulated_lab(kind, xen) as lab:
        return list(run_cases(FRONTEND.select(patterns), lab.stage))


@pytest.mark.parametrize("engine", ENGINES)
def test_our_frontend(xen: EmulatedXen, engine: str) -> None:
    outcomes = run(xen, frontend_kind(engine))
    failed = {o.case.id: o.detail for o in outcomes if o.verdict is Verdict.FAIL}
    assert not failed
    assert sum(o.verdict is Verdict.PASS for o in outcomes) >= 140


@pytest.mark.parametrize(("name", "left"), [("edk2", []), ("mini-os", ["protocol"])])
def test_children_of_mini_os_flush_before_they_close(xen: EmulatedXen, name: str, left: list[str]) -> None:
    features = {"feature-flush-cache": "1", "feature-barrier": "1"}
    with emulated_lab(frontend_kind(name), xen) as lab, lab.stage(FRONTEND.select()[0]) as stage:
        frontend = stage.connect(features)
        stage.leave(frontend)
        assert [request.operation for request in stage.seen] == [BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE]
        keys = stage.backend.frontend_keys()
        assert [key for key in ("ring-ref", "event-channel", "protocol") if key in keys] == left
        stage.begin_again()
        stage.leave(stage.connect(features, {**PROPERTIES, "info": "4"}))
        assert not stage.seen  # a read-only disk needs none


def test_nothing_is_left_behind(xen: EmulatedXen) -> None:
    before = _descriptors()
    run(xen, frontend_kind("native"), "F-STATE-00*", "F-RESP-02*", "F-LIFE-02*", "F-GRANT-012", "F-XSA-396")
    assert _descriptors() <= before
    assert not xen.store.directory("/local/domain/0/backend/vbd")


def _descriptors() -> int:
    gc.collect()  # a domain's memory goes with the last view of it
    return len(list(Path("/proc/self/fd").iterdir()))


class _Bent(BlkfrontUnderTest):
    """Our frontend with a bug of the kind that the cases are there for."""

    def __init__(self, platform: Platform, handle: int, options: Mapping[str, Any], bug: str) -> None:
        super().__init__(platform, handle, {"engine": "python", **options})
        self._bug = bug
        xenbus: Any = self._frontend._xenbus
        if bug == "order 0 is spelled out":
            self._wrap_keys(xenbus.nodes)
        if bug == "believes any operation":
            xenbus._connected = self._bend(xenbus._connected, self._believe)

    def _wrap_keys(self, nodes: Any) -> None:
        def switch(state: int, switch: Any = nodes.switch_state) -> None:
            if state == 3:
                nodes.store.write(f"{nodes.path}/ring-page-order", "0")
            switch(state)

        nodes.switch_state = switch

    def _bend(self, method: Any, then: Any) -> Any:
        def bent() -> None:
            method()
            then()

        return bent

    def _believe(self) -> None:
        engine: Any = self._frontend._xenbus.queues.engines[0]  # type: ignore[union-attr]
        complete = engine._complete

        def believing(response: Any) -> Any:
            sent = engine._shadow[response.id].piece.bio.op
            return complete(type(response)(response.id, BlkifOp(sent), response.status))

        engine._complete = believing


@pytest.mark.parametrize(
    ("bug", "case"), [("order 0 is spelled out", "F-KEYS-004"), ("believes any operation", "F-RESP-027")]
)
def test_a_case_fails_for_a_frontend_with_that_bug(xen: EmulatedXen, bug: str, case: str) -> None:
    honest = FrontendKind("honest", lambda *at: _Bent(*at, bug="none"), frozenset())
    bent = FrontendKind("bent", lambda *at: _Bent(*at, bug=bug), frozenset())
    assert [o.verdict for o in run(xen, honest, case)] == [Verdict.PASS]
    assert [o.verdict for o in run(xen, bent, case)] == [Verdict.FAIL]


def test_ids_are_numbered_by_topic() -> None:
    cases = FRONTEND.select()
    assert all(re.fullmatch(r"F-([A-Z]+-[0-9]{3}|XSA-[0-9]+(-[0-9])?)", case.id) for case in cases)
    assert len({case.title for case in cases}) == len(cases)


def _conform(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xenblk", "conform", *args], capture_output=True, text=True, check=False
    )


def test_the_command() -> None:
    done = _conform("--frontend", "native", "--case", "F-KEYS-00[12]", "--json")
    assert done.returncode == 0, done.stderr
    assert [case["verdict"] for case in json.loads(done.stdout)["cases"]] == ["pass", "pass"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--frontend", "nobody"], "not 'nobody'"),
        (["--frontend", "native", "--backend", "native"], "one of --backend, --frontend and --run-dir"),
        (["--frontend", "native", "--case", "B-*"], "no case is called 'B-*'"),
    ],
)
def test_the_command_misused(args: list[str], sentence: str) -> None:
    done = _conform(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
