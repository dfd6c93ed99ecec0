"""The shared ring (io/ring.h), generic in what its entries hold."""

from xenblk.ring.layout import (
    MAX_RING_PAGE_ORDER,
    SRING_HEADER_SIZE,
    entry_offset,
    ring_bytes,
    ring_entries,
    ring_order,
)
from xenblk.ring.sring import BackRing, FrontRing, RingStatistics

__all__ = [
    "MAX_RING_PAGE_ORDER",
    "SRING_HEADER_SIZE",
    "BackRing",
    "FrontRing",
    "RingStatistics",
    "entry_offset",
    "ring_bytes",
    "ring_entries",
    "ring_order",
]
