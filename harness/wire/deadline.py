"""Waiting for the other end: never longer than said, and how long that is may be said once for all of a thread's waits.

with patience(0.5):
    frontend.await_backend(S.CONNECTED)     # within half a second
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final, TypeVar

from xenblk.errors import XenblkError

T = TypeVar("T")

DEADLINE_S: Final = 5.0
"""How long the other end may take for anything, where nobody says otherwise."""

_POLL_S: Final = 0.0005
_LONGEST_POLL_S: Final = 0.01

_patience: Final[ContextVar[tuple[float, Callable[[], bool]]]] = ContextVar(
    "patience", default=(DEADLINE_S, lambda: False)
)


class DeadlineError(XenblkError):
    """The other end did not do what was waited for."""


@contextlib.contextmanager
def patience(timeout_s: float, given_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits of this thread that do not say their own timeout have this one; all end when `given_up` says so."""
    token = _patience.set((timeout_s, given_up))
    try:
        yield
    finally:
        _patience.reset(token)


def patience_s() -> float:
    """How long a wait of this thread is that does not say so itself."""
    return _patience.get()[0]


def wait_for(look: Callable[[], T | None], what: str, timeout_s: float | None = None) -> T:
    """Look until `look` returns something true, and return that; DeadlineError with `what` after the timeout.

    The timeout is that of `patience`, or else DEADLINE_S.
    """
    patience_now_s, given_up = _patience.get()
    limit_s = patience_now_s if timeout_s is None else timeout_s
    start_s = time.monotonic()
    looked_s = start_s
    while not (found := look()):
        now_s = time.monotonic()
        waited_s = now_s - start_s
        if waited_s > limit_s or given_up():
            raise DeadlineError(f"waited {min(waited_s, limit_s):.3g} s for {what}")
        # Who waits longer looks less often: what takes long is mostly what does not come. Where looking takes long
        # itself, on a slow machine with one CPU, at least as much time is left for whoever is waited for.
        time.sleep(max(min(max(_POLL_S, waited_s / 8), _LONGEST_POLL_S), now_s - looked_s))
        looked_s = time.monotonic()
    return found
