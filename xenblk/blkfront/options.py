"""What may be chosen of a frontend.

`feature_persistent`, `max_indirect_segments` and `trusted` are named as Linux names parameters of xen-blkfront; its
`max_ring_page_order` and `max_queues` are `ring_page_order` and `nr_queues` here.
"""

import dataclasses
from collections.abc import Callable
from typing import Final, TypedDict

from xenblk.blkif import ABIS, NATIVE
from xenblk.engines import ENGINES, POLL_US, check_engine
from xenblk.errors import UsageError

RING_PAGE_ORDER_MAX: Final = 4
QUEUES_MAX: Final = 256
INDIRECT_SEGMENTS_MAX: Final = 8 * 512


class OptionValues(TypedDict, total=False):
    """FrontendOptions as keyword arguments."""

    protocol: str
    feature_persistent: bool
    ring_page_order: int
    nr_queues: int
    max_indirect_segments: int
    trusted: bool
    recover: bool
    on_resize: Callable[[int], None] | None
    engine: str
    poll_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class FrontendOptions:
    """Options of Blkfront, which explains them; the backend may offer less. UsageError for what nobody offers."""

    protocol: str = NATIVE.protocol
    feature_persistent: bool = True
    ring_page_order: int = 0
    nr_queues: int = 1
    max_indirect_segments: int = 32
    trusted: bool = True
    recover: bool = False
    on_resize: Callable[[int], None] | None = None
    engine: str = ENGINES[0]
    poll_us: int = POLL_US

    def __post_init__(self) -> None:
        check_engine(self.engine, self.poll_us)
        if self.protocol not in ABIS:
            raise UsageError(f"protocol is one of {', '.join(ABIS)}, not {self.protocol!r}")
        if not 0 <= self.ring_page_order <= RING_PAGE_ORDER_MAX:
            raise UsageError(f"ring_page_order is 0 to {RING_PAGE_ORDER_MAX}, not {self.ring_page_order}")
        if not 1 <= self.nr_queues <= QUEUES_MAX:
            raise UsageError(f"nr_queues is 1 to {QUEUES_MAX}, not {self.nr_queues}")
        if not 0 <= self.max_indirect_segments <= INDIRECT_SEGMENTS_MAX:
            raise UsageError(f"max_indirect_segments is 0 to {INDIRECT_SEGMENTS_MAX}, not {self.max_indirect_segments}")
