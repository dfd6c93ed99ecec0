"""What ARCHITECTURE says holds a feature is there."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]


def _section(document: str, heading: str) -> str:
    text = (ROOT / document).read_text()
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _section("ARCHITECTURE.md", "Features, and what holds them"))
    assert len(named) > 25
    assert [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()] == []


def test_every_feature_that_others_have_is_held_by_a_test() -> None:
    rows = [line for line in _section("README.md", "What it can, beside the others").splitlines() if line[:2] == "| "]
    ours = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in rows[1:]}
    held = [line for line in _section("ARCHITECTURE.md", "Features, and what holds them").splitlines() if "::" in line]
    assert len(ours) == len(held)
    assert not [feature for feature, answer in ours.items() if not answer.startswith(("y", "4", "256"))]
