"""The project's own code for domain 0, as one more archive: the working tree as it is, with its compiled module."""

import shutil
import sysconfig
import tomllib
from pathlib import Path

from lab.cpio import Archive
from lab.images import Dom0Programs

# What Debian has no package of; pure Python, so any version's copy will do.
FROM_VENV = ("bintrees",)
COMMAND = b'#!/bin/sh\nexec python3 -m xenblk "$@"\n'
# Where domain 0's Python looks, as its init says.
PYTHON = "lab/python"


def archive_tree(tree: Path, folder: Path, path: Path) -> None:
    """Write to `path` an archive with the package of the project in `tree` and the `xenblk` command.

    `folder` is where fetch.sh has put domain 0's packages. FileNotFoundError if the tree's module in C is not built.
    """
    if not list((tree / "xenblk").glob("_native*.so")):
        raise FileNotFoundError(f"{tree}/xenblk has no compiled module: run `make .venv/ready` in {tree}")
    staging = path.with_suffix(".staging")
    shutil.rmtree(staging, ignore_errors=True)
    _install(tree, staging)
    for package in FROM_VENV:
        _copy(Path(sysconfig.get_path("purelib")) / package, staging / package)
    Dom0Programs(folder / "dom0").compile(staging)
    with open(path, "wb") as file:
        archive = Archive(file)
        archive.folder("lab")
        archive.folder(PYTHON)
        archive.tree(staging, at=PYTHON)
        archive.file("usr/bin/xenblk", COMMAND, 0o755)
        archive.close()
    shutil.rmtree(staging)


def _install(tree: Path, to: Path) -> None:
    """Lay out the package as setuptools would."""
    setuptools = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = setuptools["package-dir"]
    for package in setuptools["packages"]:
        _copy(tree / folders.get(package, package.replace(".", "/")), to / package.replace(".", "/"))


def _copy(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in {".py", ".so"}:
            shutil.copyfile(path, to / path.name)
