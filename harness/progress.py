"""How far a run has come: a bar for a person, lines of JSON for a program that started us, otherwise nothing."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextlib.contextmanager
def progress_bar(
    description: str, *, as_json_lines: bool = False, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)`, for as long as the block runs. The bar goes to stderr.

    A bar is shown only on a terminal, and it disappears at the end. As JSON, each call is one line
    {"done": N, "total": N} on stdout, terminal or not, `quiet` or not.
    """
    if as_json_lines:
        yield _write_json_line
    elif quiet or not sys.stderr.isatty():
        yield _show_nothing
    else:
        with _bar() as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> "Progress":
    from rich import console, progress  # noqa: PLC0415 - only for who sees it: loading it is half of a command's start

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )


def _write_json_line(done: int, total: int) -> None:
    print(json.dumps({"done": done, "total": total}), flush=True)


def _show_nothing(_done: int, _total: int) -> None:
    pass
