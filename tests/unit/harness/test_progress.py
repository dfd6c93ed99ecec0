"""A bar on a terminal, JSON lines if asked for, otherwise not a byte."""

import json
import os
import pty
import sys

import pytest

from xenblk.harness.progress import progress_bar


def run(**options: bool) -> None:
    """Half way, then all."""
    with progress_bar("copying", **options) as progress:
        progress(5, 10)
        progress(10, 10)


def test_nothing_is_shown_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr() == ("", "")


def test_json_lines_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    run(as_json_lines=True, quiet=True)

    out, err = capsys.readouterr()
    assert err == ""
    assert [json.loads(line) for line in out.splitlines()] == [{"done": 5, "total": 10}, {"done": 10, "total": 10}]


def read(controller: int) -> str:
    """What comes next from a terminal that was closed; nothing at its end, which Linux calls an error."""
    try:
        return os.read(controller, 1 << 16).decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_gets_a_bar_unless_quiet(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    controller, terminal = pty.openpty()
    try:
        with open(terminal, "w") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            run(quiet=quiet)
            monkeypatch.undo()
        shown = "".join(iter(lambda: read(controller), ""))
    finally:
        os.close(controller)

    assert ("copying" in shown) == (not quiet)
    assert ("100%" in shown) == (not quiet)
