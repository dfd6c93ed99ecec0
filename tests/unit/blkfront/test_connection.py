"""What a frontend that could not get all that it needs leaves behind: nothing."""

from collections.abc import Iterator

import pytest
from engines.platform import NR_FRAMES, LocalPlatform

from xenblk.abi import DOM0
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.errors import GrantError, UsageError

RING_PAGE_ORDER = 4
NR_RING_PAGES = 1 << RING_PAGE_ORDER


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    platform = LocalPlatform()
    yield platform
    platform.close()


def nr_free_pages(platform: LocalPlatform) -> int:
    pages = []
    try:
        for _ in range(NR_FRAMES):
            pages.append(platform.memory.allocate_page())
    except UsageError:
        pass
    for page in pages:
        platform.memory.free_page(page)
    return len(pages)


@pytest.mark.parametrize("engine", ["native", "python"])
def test_regression_a_pool_that_memory_is_too_small_for(platform: LocalPlatform, engine: str) -> None:
    ring = Ring(platform, DOM0, page_order=RING_PAGE_ORDER)
    before = nr_free_pages(platform)
    with pytest.raises(UsageError, match="memory is used up"):
        DataPath(platform, ring, DOM0, 51712, True, engine=engine)
    assert nr_free_pages(platform) == before
    ring.close()


def test_regression_a_ring_that_there_are_too_few_references_for(platform: LocalPlatform) -> None:
    before, table = nr_free_pages(platform), platform.grant_table
    taken = table.grant(DOM0, [0] * (table.free_count - NR_RING_PAGES + 1))
    with pytest.raises(GrantError, match=f"{NR_RING_PAGES - 1} of .* grant references are free"):
        Ring(platform, DOM0, page_order=RING_PAGE_ORDER)
    assert nr_free_pages(platform) == before
    assert table.end_access(taken.pop())
    Ring(platform, DOM0, page_order=RING_PAGE_ORDER).close()
    assert table.free_count == NR_RING_PAGES


def test_regression_ring_pages_that_are_mapped_still_come_back_later(platform: LocalPlatform) -> None:
    """A backend that dies under a recovering frontend lets go of the ring a moment after that gave it up."""
    before, table = nr_free_pages(platform), platform.grant_table
    nr_refs = table.free_count
    ring = Ring(platform, DOM0, page_order=RING_PAGE_ORDER)
    domain = platform.foreign_domain(platform.domid)
    region = platform.mapper.map_region(domain, ring.refs)
    ring.close()
    assert nr_free_pages(platform) == before - NR_RING_PAGES
    assert table.end_deferred() == NR_RING_PAGES
    region.unmap()
    platform.release_domain(domain)
    assert table.end_deferred() == 0
    assert (nr_free_pages(platform), table.free_count) == (before, nr_refs)
