"""Exact counts: what each mode maps, unmaps, copies and keeps, request for request."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, Domid
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.blkif import SEGMENTS_PER_INDIRECT_PAGE, BlkifOp
from xenblk.engines import ENGINES

SEGMENTS_MAX = 11
MAPPING = ("map_ops", "map_pages", "unmap_ops", "unmap_pages")


@pytest.fixture(autouse=True, params=ENGINES)
def frontend_engine(world: Any, request: pytest.FixtureRequest) -> None:
    """Every count is the same with either engine."""
    world.frontend_engine = request.param


def burst(frontend: Blkfront, rng: random.Random, sizes_pages: list[int], in_place: bool = False) -> None:
    """Put operations of these sizes in flight at once, and wait for all of them."""
    sizes = [nr_pages * PAGE_SIZE for nr_pages in sizes_pages]
    buffers = [frontend.allocate(size) if in_place else memoryview(bytearray(size)) for size in sizes]
    waiting = set()
    for buffer in buffers:
        op = rng.choice([BlkifOp.READ, BlkifOp.WRITE])
        offset = rng.randrange((frontend.size - buffer.nbytes) // 512) * 512
        waiting.add(frontend.submit(op, offset, buffer))
    while waiting:
        for bio in frontend.poll():
            assert bio.error is None
            waiting.remove(bio)
    if in_place:
        for buffer in buffers:
            frontend.free(buffer)


def check_books(counts: dict[str, int]) -> None:
    """What always holds between two requests."""
    assert counts["map_pages"] == counts["unmap_pages"] + counts["persistent_current"]
    assert counts["persistent_in_use"] == 0


def close_and_check(world: Any, frontend: Blkfront, domid: Domid) -> None:
    """After the last request: everything that was mapped is unmapped."""
    frontend.close()
    counts = world.vbd(domid).counters("back")
    assert counts["map_pages"] == counts["unmap_pages"]
    assert counts["persistent_current"] == 0
    assert world.pins(domid) == 0


@pytest.mark.parametrize("in_place", [False, True], ids=["bounced", "in place"])
def test_without_persistence_maps_equal_unmaps_equal_segments(world: Any, in_place: bool) -> None:
    world.backend("--no-feature-persistent")
    domid = world.attach()
    frontend = world.frontend(domid)
    rng, segments, requests = random.Random(1), 0, 0
    for _ in range(40):
        sizes = [rng.randint(1, SEGMENTS_MAX) for _ in range(rng.randint(1, 32))]
        burst(frontend, rng, sizes, in_place)
        segments, requests = segments + sum(sizes), requests + len(sizes)
    counts = world.counts(domid)
    assert (counts["map_pages"], counts["unmap_pages"]) == (segments, segments)
    assert (counts["map_ops"], counts["unmap_ops"]) == (requests, requests)
    assert counts["rd_req"] + counts["wr_req"] == requests
    assert counts["rd_sect"] + counts["wr_sect"] == segments * 8
    assert counts["persistent_hits"] == counts["persistent_misses"] == counts["copy_ops"] == 0
    close_and_check(world, frontend, domid)


def test_persistent_maps_the_working_set_once_and_then_nothing(world: Any) -> None:
    world.backend()
    domid = world.attach()
    frontend = world.frontend(domid)
    rng, working_set = random.Random(2), 0
    for _ in range(30):
        sizes = [rng.randint(1, SEGMENTS_MAX) for _ in range(rng.randint(1, 32))]
        burst(frontend, rng, sizes)
        working_set = max(working_set, sum(sizes))
    cold = world.counts(domid)
    assert cold["map_pages"] == cold["persistent_current"] == cold["persistent_peak"] == working_set
    assert cold["unmap_pages"] == 0
    for _ in range(10_000 // 32 + 1):
        burst(frontend, rng, [1] * 32)
    steady = world.counts(domid)
    assert steady["rd_req"] + steady["wr_req"] - cold["rd_req"] - cold["wr_req"] >= 10_000
    assert [steady[name] for name in MAPPING] == [cold[name] for name in MAPPING]
    check_books(steady)
    close_and_check(world, frontend, domid)


def indirect_pages(nr_pages: int) -> int:
    """Pages for the segments of a request."""
    return 0 if nr_pages <= SEGMENTS_MAX else -(-nr_pages // SEGMENTS_PER_INDIRECT_PAGE)


def mapped_pages(sizes: list[int]) -> int:
    """What requests of these sizes map, when nothing is kept."""
    return sum(size + indirect_pages(size) for size in sizes)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("nr_queues", "limit"), [(1, 0), (1, 1), (1, 16), (1, 300), (4, 50)])
def test_bounded_never_keeps_more_and_pays_for_every_miss(world: Any, engine: str, nr_queues: int, limit: int) -> None:
    """Each ring has the limit for itself, for pages of data and of segments alike."""
    world.backend("--engine", engine, "--max-queues", "4", "--max-persistent-grants", str(limit))
    domid = world.attach()
    frontend = world.frontend(domid, nr_queues=nr_queues)
    rng = random.Random(limit)
    segments, hits = [0] * nr_queues, [0] * nr_queues
    for _ in range(20):
        # Bios go to the queues in turn, and the pages of all that are in flight at once are different ones.
        sizes = [rng.randint(1, 32) for _ in range(nr_queues * rng.randint(8, 32))]
        burst(frontend, rng, sizes)
        for queue in range(nr_queues):
            segments[queue] += mapped_pages(sizes[queue::nr_queues])
            counts = world.counts(domid, queue=queue)
            check_bounded(counts, limit, segments[queue])
            assert counts["persistent_hits"] - hits[queue] <= limit
            hits[queue] = counts["persistent_hits"]
    for queue in range(nr_queues):
        counts = world.counts(domid, queue=queue)
        assert counts["persistent_peak"] == limit
        assert counts["persistent_overflow"] > 0, "the working set is above the limit"
        assert limit >= 100 or counts["persistent_purged"] == 0, "5 % of a limit below 100 is nothing"
    close_and_check(world, frontend, domid)


def check_bounded(counts: dict[str, int], limit: int, segments: int) -> None:
    """After so many segments in all: each was a hit or mapped, and what was mapped is unmapped unless it is kept."""
    assert counts["persistent_current"] <= limit
    assert counts["persistent_hits"] + counts["persistent_misses"] == segments
    assert counts["map_pages"] == counts["persistent_misses"]
    assert counts["unmap_pages"] == counts["persistent_overflow"] + counts["persistent_purged"]
    check_books(counts)


SMALL, LARGE = [1, 11, 12, 16], [256, 512, 600]
"""Pages of a request: of both kinds, the smallest and the largest, and with one and two pages of segments."""

RINGS = [(order, nr_queues, SMALL) for order in range(5) for nr_queues in range(1, 5)] + [
    (0, 1, LARGE),
    (1, 1, LARGE),
    (0, 3, LARGE),
]
"""Orders of ring pages, numbers of queues, and sizes: for large requests on more slots no domain has the memory."""


def rings_of_all_sizes(world: Any, *options: str) -> Iterator[tuple[Domid, Blkfront, list[int]]]:
    """Disks with each order of ring pages and each number of queues, one engine at both ends; the sizes of a burst.

    Each queue gets each of RINGS' sizes once, as bios go to the queues in turn.
    """
    engine = world.frontend_engine
    world.backend("--engine", engine, "--max-queues", "4", "--max-indirect-segments", str(max(LARGE)), *options)
    for order, nr_queues, sizes in RINGS:
        domid = world.attach()
        frontend = world.frontend(domid, ring_page_order=order, nr_queues=nr_queues, max_indirect_segments=max(sizes))
        assert frontend.nr_queues == nr_queues
        yield domid, frontend, [size for size in sizes for _ in range(nr_queues)]
        close_and_check(world, frontend, domid)


def test_counts_without_persistence_for_rings_of_all_sizes(world: Any) -> None:
    """A request of D pages, its segments in I more, maps D + I in ceil(D / 11) calls, one more for all I if there are
    any, and unmaps them in one call for D and one for I."""
    rng = random.Random(36)
    for domid, frontend, sizes in rings_of_all_sizes(world, "--no-feature-persistent"):
        for in_place in (False, True):
            burst(frontend, rng, sizes, in_place)
        counts = world.vbd(domid).counters("back")
        nr_indirect = sum(indirect_pages(size) > 0 for size in sizes)
        assert counts["map_pages"] == counts["unmap_pages"] == 2 * mapped_pages(sizes)
        assert counts["map_ops"] == 2 * (sum(-(-size // SEGMENTS_MAX) for size in sizes) + nr_indirect)
        assert counts["unmap_ops"] == 2 * (len(sizes) + nr_indirect)
        assert counts["rd_req"] + counts["wr_req"] == 2 * len(sizes)
        assert counts["rd_sect"] + counts["wr_sect"] == 2 * sum(sizes) * 8


def test_counts_with_persistence_for_rings_of_all_sizes(world: Any) -> None:
    """Each ring keeps pages of its own: all that its requests have at once is mapped once, then nothing."""
    rng = random.Random(63)
    for domid, frontend, sizes in rings_of_all_sizes(world, "--max-persistent-grants", "2000"):
        working_set = mapped_pages(sizes) // frontend.nr_queues
        for _ in range(3):
            burst(frontend, rng, sizes)
            for queue in range(frontend.nr_queues):
                counts = world.counts(domid, queue=queue)
                assert (counts["map_pages"], counts["unmap_pages"]) == (working_set, 0)
                check_books(counts)
                assert counts["persistent_misses"] == counts["persistent_current"] == working_set
        assert counts["persistent_hits"] == 2 * working_set


def test_copy_maps_nothing(world: Any) -> None:
    world.backend("--grant-copy")
    domid = world.attach()
    disk = world.disk(domid)
    for n in range(1, 12):
        disk.pwrite(bytes([n]) * (n * PAGE_SIZE), 0)
        assert disk.pread(n * PAGE_SIZE, 0) == bytes([n]) * (n * PAGE_SIZE)
    counts = world.counts(domid)
    assert [counts[name] for name in MAPPING] == [0, 0, 0, 0]
    assert counts["copy_pages"] == 2 * sum(range(1, 12))
    assert counts["copy_ops"] == 22
    close_and_check(world, disk.frontend, domid)


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("back", ["--feature-persistent", "--no-feature-persistent"])
def test_four_combinations_of_feature_persistent(world: Any, front: bool, back: str) -> None:
    world.backend(back)
    domid = world.attach()
    disk: VirtualDisk = world.disk(domid, feature_persistent=front)
    both = front and back == "--feature-persistent"
    assert disk.frontend.persistent is both
    for n in range(20):
        disk.pwrite(bytes([n]) * 8192, n * 8192)
    assert [disk.pread(8192, n * 8192)[0] for n in range(20)] == list(range(20))
    counts = world.counts(domid)
    assert (counts["map_pages"], counts["unmap_pages"]) == ((2, 0) if both else (80, 80))
    close_and_check(world, disk.frontend, domid)


def test_unused_grants_are_given_back_after_the_timeout(world: Any) -> None:
    world.backend("--persistent-grant-unused-seconds", "0.2")
    domid = world.attach()
    disk = world.disk(domid)
    disk.pwrite(bytes(11 * PAGE_SIZE), 0)
    world.eventually(lambda: world.counts(domid)["persistent_current"] == 0, "the purge")
    counts = world.counts(domid)
    assert (counts["persistent_purged"], counts["unmap_pages"]) == (11, 11)
    assert disk.pread(PAGE_SIZE, 0) == bytes(PAGE_SIZE)
