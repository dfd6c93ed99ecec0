"""What may be set on a backend, named as Linux names blkback's module parameters."""

import dataclasses
from typing import Final

from xenblk.errors import UsageError

PURGE_INTERVAL_S: Final = 0.1
"""How often a ring's thread looks at its persistent grants, as LRU_INTERVAL in blkback.c."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackendParameters:
    """Parameters of every device of a backend; each applies to connections made after it is set.

    `grant_copy` moves data by grant copy and maps no data page at all; it rules `feature_persistent` out.
    `default_protocol` is what a frontend without a `protocol` node speaks: x86_32-abi to Linux on x86.
    """

    feature_persistent: bool = True
    max_persistent_grants: int = 1056
    persistent_grant_unused_seconds: float = 60.0
    max_ring_page_order: int = 4
    grant_copy: bool = False
    default_protocol: str = "x86_32-abi"

    def __post_init__(self) -> None:
        if not 0 <= self.max_persistent_grants <= 1 << 20:
            raise UsageError(f"max_persistent_grants is 0 to {1 << 20}, not {self.max_persistent_grants}")
        if not 0 <= self.max_ring_page_order <= 4:
            raise UsageError(f"max_ring_page_order is 0 to 4, not {self.max_ring_page_order}")

    @property
    def offers_persistent(self) -> bool:
        """Whether the backend offers feature-persistent."""
        return self.feature_persistent and not self.grant_copy
