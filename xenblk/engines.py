"""Which engines move data, and how long the native one may look at a ring before it sleeps: the same on both sides."""

from typing import Final

from xenblk.errors import UsageError

ENGINES: Final = ("native", "python")
"""The compiled engine, which is the default, and its readable twin."""

POLL_US: Final = 50
POLL_US_MAX: Final = 1_000_000


def check_engine(name: str, poll_us: int) -> None:
    """UsageError if there is no such engine, or it cannot poll for so long."""
    if name not in ENGINES:
        raise UsageError(f"engine is one of {', '.join(ENGINES)}, not {name!r}")
    if not 0 <= poll_us <= POLL_US_MAX:
        raise UsageError(f"poll_us is 0 to {POLL_US_MAX}, not {poll_us}")
