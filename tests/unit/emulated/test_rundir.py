"""The run directory: one owner at a time, swept after a crash, gone afterwards."""

from pathlib import Path

import pytest

from xenblk.abi import Domid
from xenblk.emulated.rundir import RunDirectory, default_run_dir
from xenblk.errors import HostError


def test_made_and_removed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "a" / "run")
    directory.claim()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert directory.counters.is_dir()
    directory.release()
    directory.release()
    assert not directory.path.exists()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    owner, other = RunDirectory(tmp_path), RunDirectory(tmp_path)
    owner.claim()
    with pytest.raises(HostError, match="is in use by process"):
        other.claim()
    other.release()
    assert owner.counters.exists()
    owner.release()
    other.claim()
    other.release()


def test_what_a_killed_owner_left_is_swept_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name in ("control", "socket", "domain-7.socket", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "counters").mkdir()
    (tmp_path / "counters" / "vbd").touch()
    directory = RunDirectory(tmp_path)
    directory.claim()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["counters", "journals", "lock", "notes.txt"]
    assert list(directory.counters.iterdir()) == []
    directory.release()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_paths(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.xenstore(Domid(0)) == tmp_path / "socket"
    assert directory.xenstore(Domid(3)) == tmp_path / "domain-3.socket"
    with pytest.raises(HostError, match="107 bytes"):
        RunDirectory(tmp_path / ("x" * 100)).claim()


def test_the_default_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENBLK_RUN_DIR", "/some/where")
    assert default_run_dir() == Path("/some/where")
    monkeypatch.delenv("XENBLK_RUN_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_run_dir() == Path("/run/user/1/xenblk")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_run_dir().name.startswith("xenblk-")
