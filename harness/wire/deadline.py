"""Waiting for what the other end does: never longer than said."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from xenblk.errors import XenblkError

T = TypeVar("T")

DEADLINE_S: Final = 5.0
"""How long the other end may take for anything."""

_POLL_S: Final = 0.0005


class DeadlineError(XenblkError):
    """The other end did not do what was waited for."""


def wait_for(look: Callable[[], T | None], what: str, timeout_s: float = DEADLINE_S) -> T:
    """Look until `look` returns something true, and return that; DeadlineError with `what` after the timeout."""
    end_s = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > end_s:
            raise DeadlineError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)
    return found
