"""Sizes and places within a shared ring; pure arithmetic.

    offset 0    header: req_prod, req_event, rsp_prod, rsp_event (u32 each), 48 bytes of padding
    offset 64   nr_ents entries; an entry is the larger of request and response, its slot is index mod nr_ents

nr_ents is the largest power of two that fits in the ring's pages (io/ring.h, `__RING_SIZE`). Entries follow each other
without a gap, so in a ring of several pages one may lie across a page boundary.
"""

from typing import Final

from xenblk.abi import PAGE_SHIFT, PAGE_SIZE
from xenblk.errors import UsageError

SRING_HEADER_SIZE: Final = 64
MAX_RING_PAGE_ORDER: Final = 4
"""Linux's XENBUS_MAX_RING_GRANT_ORDER: at most 16 pages."""


def ring_bytes(order: int) -> int:
    """Size of a ring of 2^`order` pages."""
    if not 0 <= order <= MAX_RING_PAGE_ORDER:
        raise UsageError(f"a ring page order is within 0 to {MAX_RING_PAGE_ORDER}, not {order}")
    return PAGE_SIZE << order


def ring_order(nbytes: int) -> int:
    """The order of a ring of `nbytes` bytes: 1, 2, 4, 8 or 16 pages."""
    order = nbytes.bit_length() - 1 - PAGE_SHIFT
    if not 0 <= order <= MAX_RING_PAGE_ORDER or nbytes != PAGE_SIZE << order:
        raise UsageError(f"a ring has 1, 2, 4, 8 or 16 pages of {PAGE_SIZE} bytes, not {nbytes} bytes")
    return order


def ring_entries(order: int, entry_size: int) -> int:
    """nr_ents of a ring of 2^`order` pages with entries of `entry_size` bytes."""
    room = ring_bytes(order) - SRING_HEADER_SIZE
    if not 0 < entry_size <= room:
        raise UsageError(f"a ring entry has 1 to {room} bytes in a ring of order {order}, not {entry_size}")
    return 1 << ((room // entry_size).bit_length() - 1)


def entry_offset(index: int, nr_ents: int, entry_size: int) -> int:
    """Where the entry of free-running `index` starts, in bytes from the start of the ring."""
    return SRING_HEADER_SIZE + (index & (nr_ents - 1)) * entry_size
