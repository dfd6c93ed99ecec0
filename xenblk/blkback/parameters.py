"""What may be set on a backend, named as Linux names blkback's module parameters."""

import dataclasses
import os
from typing import Final

from xenblk.blkback.charging import RECORDS_PER_PAGE_MAX
from xenblk.blkif import BLKIF_MAX_INDIRECT_SEGMENTS
from xenblk.engines import ENGINES, POLL_US, check_engine
from xenblk.errors import UsageError

PURGE_INTERVAL_S: Final = 0.1
"""How often a ring's thread looks at its persistent grants, as LRU_INTERVAL in blkback.c."""

UNUSED_SECONDS_MAX: Final = 10**9

QUEUES_MAX: Final = 256


def _online_cpus() -> int:
    return min(os.cpu_count() or 1, QUEUES_MAX)


@dataclasses.dataclass(frozen=True, slots=True)
class BackendParameters:
    """Parameters of every device of a backend; each applies to connections made after it is set.

    `grant_copy` moves data by grant copy and maps no data page at all; it rules `feature_persistent` out.
    `engine` is "native", for memory and files, or "python"; a disk written in Python always has the Python engine.
    `poll_us` bounds how long a native ring thread polls before it sleeps, 0 never. `direct` opens files with O_DIRECT.
    `max_indirect_segments` is how many segments a request may have in pages of its own, 0 for no such requests.
    `records_per_page` is how many requests per page of a ring may be in work at a time.
    `max_queues` is how many rings one device may have, each served by a thread: as many as there are CPUs, as Linux.
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

    def __post_init__(self) -> None:
        if not 0 <= self.max_persistent_grants <= 1 << 20:
            raise UsageError(f"max_persistent_grants is 0 to {1 << 20}, not {self.max_persistent_grants}")
        # Said so that a NaN, which compares as false, is refused.
        if not 0 <= self.persistent_grant_unused_seconds <= UNUSED_SECONDS_MAX:
            raise UsageError(
                f"persistent_grant_unused_seconds is 0 to {UNUSED_SECONDS_MAX}, "
                f"not {self.persistent_grant_unused_seconds}"
            )
        if not 0 <= self.max_ring_page_order <= 4:
            raise UsageError(f"max_ring_page_order is 0 to 4, not {self.max_ring_page_order}")
        if not 1 <= self.max_queues <= QUEUES_MAX:
            raise UsageError(f"max_queues is 1 to {QUEUES_MAX}, not {self.max_queues}")
        check_engine(self.engine, self.poll_us)
        if not 1 <= self.records_per_page <= RECORDS_PER_PAGE_MAX:
            raise UsageError(f"records_per_page is 1 to {RECORDS_PER_PAGE_MAX}, not {self.records_per_page}")
        if not 0 <= self.max_indirect_segments <= BLKIF_MAX_INDIRECT_SEGMENTS:
            raise UsageError(
                f"max_indirect_segments is 0 to {BLKIF_MAX_INDIRECT_SEGMENTS}, not {self.max_indirect_segments}"
            )

    @property
    def offers_persistent(self) -> bool:
        """Whether the backend offers feature-persistent."""
        return self.feature_persistent and not self.grant_copy
