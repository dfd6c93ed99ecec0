"""Files and functions stay small enough to be read at once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
C_COLUMNS_MAX = 120

_C_FUNCTION = re.compile(r"^[A-Za-z][^;{}]*?\b(\w+)\([^;{}]*\)\s*\n\{\n.*?^\}", re.MULTILINE | re.DOTALL)


def _python_functions(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def _c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Functions whose braces stand in the first column, as they do in this project."""
    for match in _C_FUNCTION.finditer(text):
        yield match[1], match[0].count("\n") + 1


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    if path.suffix == ".py":
        yield from _python_functions(path.read_text())
    elif path.suffix == ".c":
        yield from _c_functions(path.read_text())


def test_files(files: list[Path]) -> None:
    sources = [path for path in files if path.suffix in {".py", ".pyi", ".c", ".h"}]
    assert sources
    lengths = {path: len(path.read_text().splitlines()) for path in sources}
    long = {str(path): lines for path, lines in lengths.items() if lines > FILE_LINES_MAX}
    assert not long, f"files of more than {FILE_LINES_MAX} lines hold two ideas: {long}"


def test_functions(files: list[Path]) -> None:
    found = [(f"{path}: {name}", lines) for path in files for name, lines in _functions(path)]
    assert found
    long = [(name, lines) for name, lines in found if lines > FUNCTION_LINES_MAX]
    assert not long, f"functions of more than {FUNCTION_LINES_MAX} lines: {long}"


def test_lines_of_c(files: list[Path]) -> None:
    """Of Python, the linter looks after them."""
    sources = [path for path in files if path.suffix in {".c", ".h"}]
    assert sources
    long = [
        f"{path}:{number}: {len(line)}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > C_COLUMNS_MAX
    ]
    assert not long, f"lines of more than {C_COLUMNS_MAX} columns:\n" + "\n".join(long)


def test_every_c_function_is_seen(files: list[Path]) -> None:
    for path in files:
        if path.suffix == ".c":
            text = path.read_text()
            assert len(list(_c_functions(text))) == len(re.findall(r"\)\s*\n\{$", text, re.MULTILINE)), path


def test_lengths_are_counted_from_signature_to_brace() -> None:
    text = "static int f(int a,\n             int b)\n{\n    return a + b;\n}\n\nvoid g(void)\n{\n    f(1, 2);\n}\n"
    assert list(_c_functions(text)) == [("f", 5), ("g", 4)]
    assert list(_python_functions("def f(\n    a,\n):\n    return a\n")) == [("f", 4)]
