"""Imports point down: each module imports what stands on a lower line of LAYERS, and nothing beside or above itself."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

# Top to bottom. A package stands for all its modules, among which imports are free; `xenblk` is its __init__ alone.
LAYERS = [
    ["xenblk.__main__", "xenblk.pytest_plugin"],
    ["xenblk.cli", "xenblk.testing"],
    ["xenblk.harness"],
    ["xenblk"],
    ["xenblk.library"],
    ["xenblk.processes"],
    ["xenblk.object_disk"],
    ["xenblk.blkback", "xenblk.blkfront", "xenblk.emulated", "xenblk.xen"],
    ["xenblk.platform", "xenblk.toolstack"],
    ["xenblk.blkif", "xenblk.counters", "xenblk.disk", "xenblk.vdev", "xenblk.xenbus", "xenblk.xenstore"],
    ["xenblk.ring", "xenblk.grants"],
    ["xenblk.engines", "xenblk.huge_pages", "xenblk.image"],
    ["xenblk._native", "xenblk._native_build", "xenblk.abi", "xenblk.errors", "xenblk.loop"],
]
RANK = {name: len(LAYERS) - at for at, layer in enumerate(LAYERS) for name in layer}

# Who may hold raw pointers.
WRAPPERS = {
    "xenblk.ring",
    "xenblk.grants",
    "xenblk.emulated",
    "xenblk.xen",
    "xenblk.blkback",
    "xenblk.blkfront",
    "xenblk.xenstore.page",
    "xenblk.disk",
    "xenblk.huge_pages",
    "xenblk.image",
    "xenblk.harness.native_load",
}

# Protocol and arithmetic: no sockets, clocks, threads or dice. Bytes, times and seeds come in as arguments.
SANS_IO = [
    "xenblk.abi",
    "xenblk.blkif",
    "xenblk.errors",
    "xenblk.ring.layout",
    "xenblk.vdev",
    "xenblk.xenbus",
    "xenblk.xenstore.control",
    "xenblk.xenstore.domain",
    "xenblk.xenstore.limit",
    "xenblk.xenstore.operations",
    "xenblk.xenstore.requests",
    "xenblk.xenstore.session",
    "xenblk.xenstore.store",
    "xenblk.xenstore.transaction",
    "xenblk.xenstore.tree",
    "xenblk.xenstore.watch",
    "xenblk.xenstore.wire",
    "xenblk.xenstore.xenstored",
]
IO_MODULES = {"asyncio", "os", "random", "select", "selectors", "socket", "subprocess", "threading", "time"}


def _part(module: str) -> str | None:
    """The entry of LAYERS that `module` belongs to."""
    if module == "xenblk":
        return module
    return next((name for name in RANK if name != "xenblk" and f"{module}.".startswith(f"{name}.")), None)


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file; `from package import module` is the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & {*modules, "xenblk._native"}
            yield from submodules
            if len(submodules) < len(node.names):
                yield str(node.module)


def _edges(modules: dict[str, Path]) -> Iterator[tuple[str, str]]:
    for module, path in modules.items():
        for target in _imports(path, modules):
            if target.split(".")[0] == "xenblk":
                yield module, target


def test_every_module_has_a_layer(modules: dict[str, Path]) -> None:
    homeless = [module for module in modules if _part(module) is None]
    assert not homeless, f"say in LAYERS where these belong: {homeless}"


def test_imports_point_down(modules: dict[str, Path]) -> None:
    wrong = []
    for module, target in _edges(modules):
        source_part, target_part = _part(module), _part(target)
        assert source_part is not None, module
        assert target_part is not None, f"{module} imports {target}, which is in no layer"
        if source_part != target_part and RANK[target_part] >= RANK[source_part]:
            wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_mechanisms_stand_on_the_leaves_alone(modules: dict[str, Path]) -> None:
    """Ring and grants know nothing of each other, of blkif or of xenstore."""
    edges = [edge for edge in _edges(modules) if _part(edge[0]) in ("xenblk.ring", "xenblk.grants")]
    assert edges
    for module, target in edges:
        assert _part(target) in (_part(module), "xenblk._native", "xenblk.abi", "xenblk.errors"), (module, target)


def test_pointers_stay_in_the_wrappers(modules: dict[str, Path]) -> None:
    holders = {module for module, target in _edges(modules) if target == "xenblk._native"}
    assert holders
    assert not [m for m in holders if not any(f"{m}.".startswith(f"{wrapper}.") for wrapper in WRAPPERS)]


@pytest.mark.parametrize("module", SANS_IO)
def test_protocol_does_no_io(modules: dict[str, Path], module: str) -> None:
    assert not IO_MODULES & set(_imports(modules[module], modules))


def test_third_party_imports_are_declared(root: Path, modules: dict[str, Path]) -> None:
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    project = pyproject["project"]
    extras = [wish for extra, wishes in project["optional-dependencies"].items() if extra != "dev" for wish in wishes]
    declared = _distributions(project["dependencies"] + extras)
    building = _distributions(pyproject["build-system"]["requires"])
    for module, path in modules.items():
        allowed = {"xenblk", *sys.stdlib_module_names, *(building if module == "xenblk._native_build" else declared)}
        foreign = {target.split(".")[0] for target in _imports(path, modules)} - allowed
        assert not foreign, f"{module} imports {foreign}, which pyproject.toml does not ask for"


def _distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_-]", requirement)[0].replace("-", "_") for requirement in requirements}


def test_the_rules_see_every_way_to_import(tmp_path: Path) -> None:
    modules = {"xenblk": tmp_path, "xenblk.ring": tmp_path, "xenblk.ring.sring": tmp_path}
    file = tmp_path / "module.py"
    file.write_text(
        "import os.path, xenblk.ring.sring\n"
        "from xenblk import ring, __version__\n"
        "from xenblk._native import ffi\n"
        "def late():\n    from xenblk.ring.sring import FrontRing\n"
    )
    assert sorted(_imports(file, modules)) == sorted(
        ["os.path", "xenblk.ring.sring", "xenblk.ring", "xenblk", "xenblk._native", "xenblk.ring.sring"]
    )
    assert _part("xenblk.ring.sring") == "xenblk.ring"
    assert _part("xenblk._native_build") == "xenblk._native_build"
    assert _part("xenblk.ringing") is None
