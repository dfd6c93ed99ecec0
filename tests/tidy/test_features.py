"""What ARCHITECTURE says holds a feature is there."""

import itertools
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


def _rows(document: str, heading: str) -> list[list[str]]:
    """The cells of each row of the section's table, but for its head."""
    lines = [line for line in _section(document, heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_feature_that_others_have_is_held_by_a_test() -> None:
    ours = {row[0]: row[-1] for row in _rows("README.md", "What it can, beside the others")}
    held = {row[0]: row[-1] for row in _rows("ARCHITECTURE.md", "Features, and what holds them")}
    assert [feature for feature, tests in held.items() if "::" not in tests] == []
    # README may say more of a feature, but begins with the name that it has here.
    pairs = itertools.zip_longest(ours, held, fillvalue="a row that is not there")
    assert [pair for pair in pairs if not pair[0].startswith(pair[1])] == []
    assert not [feature for feature, answer in ours.items() if not answer.startswith(("y", "4", "256"))]
