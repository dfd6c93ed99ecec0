"""The source tree as the tidy tests read it."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("xenblk", "ring", "grants", "harness", "lab", "tests", "benchmarks", "examples", "docs", "contrib", ".ci")


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that has pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Every file that people write: those of the project's folders, and those beside them."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    return sorted(
        path
        for path in found
        if path.is_file() and path.suffix not in {".so", ".pyc"} and "__pycache__" not in path.parts
    )


@pytest.fixture(scope="session")
def modules() -> dict[str, Path]:
    """Every module of the package by its import name, the folders mapped as setuptools maps them."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {"xenblk": "xenblk", **pyproject["tool"]["setuptools"]["package-dir"]}
    found = {}
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found
