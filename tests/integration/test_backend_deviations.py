"""Each double of a known backend fails the conformance cases that its original would, and no other of these topics."""

from typing import Any

import pytest

from xenblk.harness.conform.backend import BACKEND
from xenblk.harness.conform.backend.run import run_backend_cases, serving
from xenblk.harness.conform.case import Verdict
from xenblk.harness.wire.frontend import RawFrontend

TOPICS = ("B-ABI-*", "B-CHECK-*", "B-BARRIER-*", "B-DISCARD-*", "B-HAND-*", "B-KEYS-0[012]*")

_UNKNOWN = dict.fromkeys(
    ("B-CHECK-001", "B-CHECK-002", "B-CHECK-003", "B-CHECK-004", "B-CHECK-027"),
    "an unknown operation is answered ERROR",
)
_ONE_QUEUE = {
    "B-HAND-018": "it knows of no queues and writes no multi-queue-max-queues",
    "B-KEYS-010": "it does not read multi-queue-num-queues",
    "B-KEYS-011": "it does not read multi-queue-num-queues",
}
_IGNORES_STATES = dict.fromkeys(
    ("B-HAND-010", "B-HAND-011", "B-HAND-012", "B-HAND-017", "B-HAND-022"),
    "a frontend in a state that it may not be in is ignored",
)
_ORDER_ZERO = {"B-KEYS-017": "with ring-page-order 0 spelled out it wants ring-ref0"}
_NO_RING_REF0 = {"B-KEYS-016": "for one page it wants ring-ref, whether or not ring-page-order stands there"}
_NATIVE = {"B-KEYS-027": "a missing protocol means its own"}

DEVIATIONS = {
    "linux": _ORDER_ZERO,
    "qemu": {
        **_UNKNOWN,
        **_ONE_QUEUE,
        **_IGNORES_STATES,
        **_ORDER_ZERO,
        **_NATIVE,
        "B-CHECK-005": "a request of no segments is done",
        "B-CHECK-006": "a request of no segments is done",
        "B-HAND-019": "it has no barriers and writes no feature-barrier",
        "B-KEYS-008": "an unknown protocol means its own",
    },
    "tapdisk": {
        **_ONE_QUEUE,
        **_IGNORES_STATES,
        **_NO_RING_REF0,
        "B-CHECK-009": "a flush is an unknown operation, whatever else is wrong with it",
        "B-HAND-020": "it has no flush and writes no feature-flush-cache",
        "B-KEYS-021": "a feature-persistent that is neither 0 nor 1 is refused",
    },
    "freebsd": {
        **_UNKNOWN,
        **_ONE_QUEUE,
        **_NO_RING_REF0,
        **_NATIVE,
        "B-HAND-022": "a refusal writes online 0, and the device goes with it",
        "B-KEYS-025": "a refusal writes online 0, and the device goes with it",
    },
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most deviations show in a wait for what does not come."""
    defaults: dict[str, Any] = RawFrontend.await_backend.__kwdefaults__
    monkeypatch.setitem(defaults, "timeout_s", 1.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_double_fails_what_its_original_would(name: str) -> None:
    with serving(name) as run_dir:
        outcomes = list(run_backend_cases(run_dir, BACKEND.select(TOPICS)))
    failed = {o.case.id: o.detail for o in outcomes if o.verdict is Verdict.FAIL}
    expected = set(DEVIATIONS[name])
    assert failed.keys() - expected == set(), {case: failed[case] for case in failed.keys() - expected}
    assert expected - failed.keys() == set()
