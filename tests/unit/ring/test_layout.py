"""Sizes of rings, against the table that compiling the public headers gives."""

import pytest

from xenblk.errors import UsageError
from xenblk.ring import entry_offset, ring_bytes, ring_entries, ring_order

# page order, entry size, nr_ents, offset of the last entry
SIZES = [
    (0, 112, 32, 3536),
    (1, 112, 64, 7120),
    (2, 112, 128, 14288),
    (3, 112, 256, 28624),
    (4, 112, 512, 57296),
    (0, 108, 32, 3412),
    (1, 108, 64, 6868),
    (2, 108, 128, 13780),
    (3, 108, 256, 27604),
    (4, 108, 512, 55252),
    (0, 8, 256, 2104),
]


@pytest.mark.parametrize(("order", "entry_size", "nr_ents", "last"), SIZES)
def test_sizes(order: int, entry_size: int, nr_ents: int, last: int) -> None:
    assert ring_entries(order, entry_size) == nr_ents
    assert entry_offset(nr_ents - 1, nr_ents, entry_size) == last
    assert last + entry_size <= ring_bytes(order)
    assert ring_order(ring_bytes(order)) == order


def test_index_runs_around() -> None:
    assert entry_offset(0xFFFFFFFF, 32, 112) == 3536
    assert entry_offset(32, 32, 112) == 64


@pytest.mark.parametrize("nbytes", [0, 4095, 4097, 3 * 4096, 32 * 4096])
def test_not_a_ring(nbytes: int) -> None:
    with pytest.raises(UsageError, match=f"1, 2, 4, 8 or 16 pages of 4096 bytes, not {nbytes} bytes"):
        ring_order(nbytes)


@pytest.mark.parametrize("order", [-1, 5])
def test_order_out_of_bounds(order: int) -> None:
    with pytest.raises(UsageError, match=f"within 0 to 4, not {order}"):
        ring_bytes(order)


@pytest.mark.parametrize("entry_size", [0, 4033])
def test_entry_that_does_not_fit(entry_size: int) -> None:
    with pytest.raises(UsageError, match=f"1 to 4032 bytes in a ring of order 0, not {entry_size}"):
        ring_entries(0, entry_size)
