"""What may be set on a backend, named as Linux names blkback's module parameters."""

import dataclasses
import os
from typing import Any, Final

from xenblk.blkback.charging import RECORDS_PER_PAGE_MAX
from xenblk.blkif import BLKIF_MAX_INDIRECT_SEGMENTS
from xenblk.engines import ENGINES, POLL_US, check_engine
from xenblk.errors import UsageError

PURGE_INTERVAL_S: Final = 0.1
"""How often a ring's thread looks at its persistent grants, as LRU_INTERVAL in blkback.c."""

UNUSED_SECONDS_MAX: Final = 10**9
PAGES_MAX: Final = 1 << 20

CHANGEABLE: Final = (
    "feature_persistent",
    "log_stats",
    "max_buffer_pages",
    "max_persistent_grants",
    "max_queues",
    "persistent_grant_unused_seconds",
)
"""What may change while the backend runs: the parameters that Linux has in /sys/module/xen_blkback with mode 0644."""

_TRUTHS: Final = {"Y": True, "y": True, "1": True, "N": False, "n": False, "0": False}

QUEUES_MAX: Final = 256


def _online_cpus() -> int:
    return min(os.cpu_count() or 1, QUEUES_MAX)


@dataclasses.dataclass(slots=True)
class BackendParameters:
    """Parameters of every device of a backend. What `change` may change applies at once, also to rings that are served;
    the others, `feature_persistent` and `max_queues` apply to connections made after they are set.

    `feature_persistent` offers to keep grants mapped, at most `max_persistent_grants` for each ring, and each until it
    was not used for `persistent_grant_unused_seconds` (0: for ever).
    `max_buffer_pages` is how many pages for copies a ring keeps for its next requests.
    `log_stats` has each ring log what it did, every 10 seconds.
    `grant_copy` moves data by grant copy and maps no data page at all; it rules `feature_persistent` out.
    `engine` is "native", for memory and files, or "python"; a disk written in Python always has the Python engine.
    `poll_us` bounds how long a native ring thread polls before it sleeps, 0 never. `direct` opens files with O_DIRECT.
    `max_indirect_segments` is how many segments a request may have in pages of its own, 0 for no such requests.
    `records_per_page` is how many requests per page of a ring may be in work at a time.
    `max_queues` is how many rings one device may have, each served by a thread: as many as there are CPUs, as Linux.
    `keep_connected` leaves frontends connected when the backend stops: their requests wait for the next one.
    `default_protocol` is what a frontend without a `protocol` node speaks: x86_32-abi to Linux on x86.
    """

    feature_persistent: bool = True
    max_persistent_grants: int = 1056
    persistent_grant_unused_seconds: float = 60.0
    max_ring_page_order: int = 4
    max_queues: int = dataclasses.field(default_factory=_online_cpus)
    grant_copy: bool = False
    default_protocol: str = "x86_32-abi"
    engine: str = ENGINES[0]
    poll_us: int = POLL_US
    direct: bool = False
    records_per_page: int = RECORDS_PER_PAGE_MAX
    max_indirect_segments: int = 256
    max_buffer_pages: int = 1024
    log_stats: bool = False
    keep_connected: bool = False

    def __post_init__(self) -> None:
        _check_range("max_persistent_grants", self.max_persistent_grants, PAGES_MAX)
        _check_range("persistent_grant_unused_seconds", self.persistent_grant_unused_seconds, UNUSED_SECONDS_MAX)
        _check_range("max_ring_page_order", self.max_ring_page_order, 4)
        if not 1 <= self.max_queues <= QUEUES_MAX:
            raise UsageError(f"max_queues is 1 to {QUEUES_MAX}, not {self.max_queues}")
        check_engine(self.engine, self.poll_us)
        if not 1 <= self.records_per_page <= RECORDS_PER_PAGE_MAX:
            raise UsageError(f"records_per_page is 1 to {RECORDS_PER_PAGE_MAX}, not {self.records_per_page}")
        _check_range("max_indirect_segments", self.max_indirect_segments, BLKIF_MAX_INDIRECT_SEGMENTS)
        _check_range("max_buffer_pages", self.max_buffer_pages, PAGES_MAX)

    @property
    def offers_persistent(self) -> bool:
        """Whether the backend offers feature-persistent."""
        return self.feature_persistent and not self.grant_copy

    def change(self, name: str, text: str) -> None:
        """Change one of CHANGEABLE, from any thread, to a value as /sys/module has it: a number, or Y or N.

        UsageError, and nothing changes, for another parameter or a value that it cannot have.
        """
        if name not in CHANGEABLE:
            raise UsageError(f"what may change while a backend runs is {', '.join(CHANGEABLE)}, not {name}")
        value = _parse(name, text.strip(), type(getattr(BackendParameters(), name)))
        dataclasses.replace(self, **{name: value})
        setattr(self, name, value)

    def changeable(self) -> dict[str, str]:
        """The values of CHANGEABLE, written as /sys/module has them."""
        return {name: _format(getattr(self, name)) for name in CHANGEABLE}


def _check_range(name: str, value: float, most: int) -> None:
    # Said so that a NaN, which compares as false, is refused.
    if not 0 <= value <= most:
        raise UsageError(f"{name} is 0 to {most}, not {value}")


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text not in _TRUTHS:
            raise UsageError(f"{name} is Y or N, not {text!r}")
        return _TRUTHS[text]
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} is a number, not {text!r}") from None


def _format(value: float) -> str:
    if isinstance(value, bool):
        return "Y" if value else "N"
    return f"{value:g}" if isinstance(value, float) else str(value)
