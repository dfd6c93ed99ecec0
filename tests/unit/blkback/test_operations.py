"""Discards, barriers, indirect requests and large sectors, with either engine and layout: answers and counts."""

import random
from collections.abc import Callable

import pytest
from engines.bench import Bench
from engines.sides import DISK_SECTORS as SECTORS
from engines.sides import FIRST_TABLE, NR_DATA_FRAMES, READONLY, UNGRANTED

from xenblk.abi import GrantRef
from xenblk.blkif import X86_64, Abi, BlkifOp, BlkifSegment, BlkifStatus, pack_segments

OKAY, ERROR, EOPNOTSUPP = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
READ, WRITE, FLUSH, BARRIER = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE, BlkifOp.WRITE_BARRIER
WHOLE = BlkifSegment(GrantRef(8), 0, 7)

Make = Callable[..., Bench]


def whole(count: int) -> list[BlkifSegment]:
    """Pages, over and over."""
    return [BlkifSegment(GrantRef(8 + at % NR_DATA_FRAMES), 0, 7) for at in range(count)]


def first_sectors(count: int) -> list[BlkifSegment]:
    return [BlkifSegment(GrantRef(8 + at % NR_DATA_FRAMES), 0, 0) for at in range(count)]


# Discard


@pytest.mark.parametrize("disk", ["memory", "tmpfs"])
def test_a_discard_reads_as_zeros_and_leaves_its_neighbours(make: Make, abi: Abi, disk: str) -> None:
    bench = make(abi, disk=disk)
    before = bench.twin.content()
    assert bench.discard(13, 30) == OKAY
    assert bench.twin.content() == before[: 13 * 512] + bytes(30 * 512) + before[43 * 512 :]
    assert (bench.count("ds_req"), bench.count("wr_req"), bench.count("wr_sect")) == (1, 0, 0)


def test_what_a_discard_may_not_do(make: Make, abi: Abi) -> None:
    bench = make(abi)
    before = bench.twin.content()
    assert bench.discard(SECTORS - 7, 8) == ERROR
    assert bench.discard((1 << 64) - 1, 2) == ERROR
    assert bench.discard(2, (1 << 64) - 1) == ERROR
    assert bench.count("ds_req") == 0, "a denied discard is not counted"
    assert bench.discard(1 << 60, 0) == OKAY, "without sectors there is nothing to check"
    assert bench.discard(SECTORS, 0, flag=1) == OKAY
    assert bench.count("ds_req") == 2
    assert bench.twin.content() == before


def test_cve_2013_2140_a_discard_of_a_read_only_disk(make: Make, abi: Abi) -> None:
    bench = make(abi, read_only=True)
    before = bench.twin.content()
    assert [bench.discard(0, 8), bench.discard(0, 0)] == [ERROR, ERROR]
    assert bench.count("ds_req") == 0
    assert bench.twin.content() == before


@pytest.mark.parametrize("disk", ["memory", "tmpfs"])
def test_the_secure_flag_erases_memory_and_means_nothing_to_a_file(make: Make, abi: Abi, disk: str) -> None:
    bench = make(abi, disk=disk)
    assert bench.discard(0, 8, flag=255) == OKAY
    assert bench.twin.content()[:4096] == bytes(4096)


# Barriers


def test_a_barrier_is_a_flush_that_may_carry_data(make: Make, abi: Abi) -> None:
    bench = make(abi)
    bench.memory(8)[:] = b"B" * 4096
    assert bench.status(BARRIER, WHOLE, sector=16) == OKAY
    assert bench.disk.pread(4096, 16 * 512) == b"B" * 4096
    assert bench.status(BARRIER, sector=(1 << 64) - 1) == OKAY
    assert (bench.count("f_req"), bench.count("wr_req"), bench.count("wr_sect")) == (2, 0, 8)
    assert bench.status(BARRIER, WHOLE, sector=SECTORS) == ERROR


def test_barriers_of_a_read_only_disk(make: Make, abi: Abi) -> None:
    bench = make(abi, read_only=True)
    assert [bench.status(BARRIER), bench.status(BARRIER, WHOLE)] == [ERROR, ERROR]


# Indirect requests


@pytest.mark.parametrize("grant_copy", [False, True])
@pytest.mark.parametrize("count", [1, 11, 12, 32])
def test_indirect_data_goes_where_it_belongs(make: Make, abi: Abi, count: int, grant_copy: bool) -> None:
    bench = make(abi, grant_copy=grant_copy)
    for at in range(count):
        bench.memory(8 + at)[:] = bytes([1 + at]) * 4096
    segments = [BlkifSegment(GrantRef(8 + at), 1, 6) for at in range(count)]
    assert bench.indirect(WRITE, *segments, sector=3) == OKAY
    written = b"".join(bytes([1 + at]) * 6 * 512 for at in range(count))
    assert bench.disk.pread(len(written), 3 * 512) == written
    for at in range(count):
        bench.memory(8 + at)[:] = bytes(4096)
    assert bench.indirect(READ, *segments, sector=3) == OKAY
    for at in range(count):
        assert bytes(bench.memory(8 + at)) == bytes(512) + bytes([1 + at]) * 6 * 512 + bytes(512)
    assert (bench.count("rd_req"), bench.count("wr_req")) == (1, 1)
    assert (bench.count("rd_sect"), bench.count("wr_sect")) == (6 * count, 6 * count)


def test_the_number_of_indirect_segments(make: Make, abi: Abi) -> None:
    bench = make(abi, max_indirect_segments=200)
    assert bench.indirect(READ, nr_segments=0) == ERROR
    assert bench.indirect(READ, *first_sectors(200)) == OKAY
    assert bench.indirect(READ, *first_sectors(201)) == ERROR
    assert bench.indirect(READ, nr_segments=65535) == ERROR
    assert bench.count("rd_req") == 4


def test_as_many_as_eight_pages_hold(make: Make, abi: Abi) -> None:
    """The last of 4096 segments is at fault, and so no page of data is mapped."""
    bench = make(abi, max_indirect_segments=4096)
    segments = first_sectors(4096)
    segments[4095] = BlkifSegment(GrantRef(8), 5, 4)
    assert bench.indirect(READ, *segments) == ERROR
    assert (bench.count("map_pages"), bench.count("unmap_pages")) == (8, 8)
    assert bench.indirect(READ, nr_segments=4097) == ERROR


def test_where_they_are_not_offered_nobody_knows_them(make: Make, abi: Abi) -> None:
    bench = make(abi, max_indirect_segments=0)
    assert bench.indirect(READ, WHOLE, answered=6) == EOPNOTSUPP
    assert bench.indirect(9, WHOLE, answered=6) == EOPNOTSUPP
    assert bench.count("rd_req") == bench.count("map_pages") == 0


@pytest.mark.parametrize("operation", [BARRIER, FLUSH, 4, 5, 6, 255])
def test_what_an_indirect_request_cannot_be(make: Make, abi: Abi, operation: int) -> None:
    bench = make(abi)
    assert bench.indirect(operation, WHOLE) == ERROR
    assert bench.count("f_req") == bench.count("map_pages") == 0


@pytest.mark.parametrize("segment", [(1, 0), (0, 8), (8, 255)])
@pytest.mark.parametrize("position", [0, 40, 99])
def test_bounds_of_indirect_segments(make: Make, abi: Abi, segment: tuple[int, int], position: int) -> None:
    bench = make(abi)
    segments = first_sectors(100)
    segments[position] = BlkifSegment(GrantRef(8), *segment)
    assert bench.indirect(READ, *segments) == ERROR
    assert (bench.count("map_pages"), bench.count("unmap_pages")) == (1, 1), "the data was not mapped"


@pytest.mark.parametrize("grant_copy", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_pages_of_segments_that_cannot_be_had(make: Make, abi: Abi, persistent: bool, grant_copy: bool) -> None:
    bench = make(abi, max_indirect_segments=1024, persistent=persistent and not grant_copy, grant_copy=grant_copy)
    assert bench.indirect(READ, *first_sectors(200), refs=(UNGRANTED,)) == ERROR
    assert bench.indirect(READ, *first_sectors(600), refs=(FIRST_TABLE, 0xFFFFFFFF)) == ERROR
    assert bench.count("persistent_in_use") == 0
    assert bench.guest.pins() == bench.count("persistent_current") == bench.count("persistent_peak")


@pytest.mark.parametrize("grant_copy", [False, True])
def test_pages_of_segments_may_be_granted_read_only(make: Make, abi: Abi, grant_copy: bool) -> None:
    bench = make(abi, grant_copy=grant_copy)
    bench.memory(8)[:8] = bytes([9, 0, 0, 0, 0, 7, 0, 0])
    assert bench.indirect(READ, nr_segments=1, refs=(READONLY,)) == OKAY
    assert bytes(bench.memory(9)) == bench.disk.pread(4096, 0)


@pytest.mark.parametrize("persistent", [False, True])
def test_xsa_361_365_371_one_bad_reference_among_256(make: Make, abi: Abi, persistent: bool) -> None:
    """An error, no page left mapped but those that are kept, and none in use."""
    bench = make(abi, persistent=persistent)
    before = bench.twin.content()
    for position in [*range(0, 256, 15), 10, 11]:
        segments = first_sectors(256)
        segments[position] = BlkifSegment(GrantRef(0xFFFFFFFF), 0, 0)
        assert bench.indirect(WRITE, *segments) == ERROR
        assert bench.twin.content() == before
        assert bench.count("wr_sect") == bench.count("persistent_in_use") == 0
        assert bench.guest.pins() == bench.count("persistent_current")
        assert persistent or bench.guest.pins() == 0
        assert bench.indirect(WRITE, *segments[:position] or [WHOLE], sector=0) == OKAY
        assert bench.disk.pread(512, 0) == bytes(512), "an empty page of the guest's"
        bench.disk.pwrite(before, 0)
        bench.counters.wr_sect = 0


@pytest.mark.parametrize("persistent", [False, True])
def test_a_page_of_segments_is_data_of_its_own_request(make: Make, abi: Abi, persistent: bool) -> None:
    bench = make(abi, persistent=persistent)
    assert bench.indirect(READ, BlkifSegment(GrantRef(FIRST_TABLE), 0, 7)) == OKAY
    assert bytes(bench.table(0)) == bench.disk.pread(4096, 0)
    assert bench.indirect(READ, WHOLE, WHOLE) == OKAY


@pytest.mark.parametrize("persistent", [False, True])
def test_one_page_of_segments_twice(make: Make, abi: Abi, persistent: bool) -> None:
    """The 513th segment is the first one again, and so on."""
    bench = make(abi, persistent=persistent, max_indirect_segments=1024, disk_sectors=1024, maptrack_entries=1024)
    refs = range(9, 8 + NR_DATA_FRAMES)  # behind what the larger maptrack makes of the grant table
    places = [(refs[n % len(refs)], n // len(refs) % 8) for n in range(512)]
    table = pack_segments([BlkifSegment(GrantRef(ref), sector, sector) for ref, sector in places])

    def indirect(operation: BlkifOp) -> list[bytes]:
        bench.table(0)[:] = table
        assert bench.indirect(operation, nr_segments=600, refs=(FIRST_TABLE, FIRST_TABLE)) == OKAY
        return [bytes(bench.memory(ref)[sector * 512 : sector * 512 + 512]) for ref, sector in places]

    dice, rest = random.Random(600), bench.disk.pread(424 * 512, 600 * 512)
    for ref in refs:
        bench.memory(ref)[:] = dice.randbytes(4096)
    written = b"".join(indirect(WRITE))
    assert bench.disk.pread(1024 * 512, 0) == written + written[: 88 * 512] + rest
    assert (bench.count("map_pages"), bench.count("map_ops")) == (600 + 2, -(-600 // 11) + 1)
    kept = len(refs) + 1 if persistent else 0
    assert bench.count("unmap_pages") == 600 + 2 - kept
    assert bench.count("unmap_ops") == 2
    bench.disk.pwrite(dice.randbytes(600 * 512), 0)
    found: dict[tuple[int, int], set[bytes]] = {}
    for n in range(600):
        found.setdefault(places[n % 512], set()).add(bench.disk.pread(512, n * 512))
    assert all(data in found[place] for place, data in zip(places, indirect(READ), strict=True))
    assert bench.guest.pins() == bench.count("persistent_current") == kept


def test_an_indirect_request_wrong_in_two_ways(make: Make, abi: Abi) -> None:
    """What comes first is what the counts show."""
    bench = make(abi, read_only=True)
    assert bench.indirect(9, nr_segments=9999) == ERROR
    assert bench.count("wr_req") == bench.count("rd_req") == 0, "the operation before the count"
    assert bench.indirect(WRITE, nr_segments=9999, refs=(UNGRANTED,)) == ERROR
    assert (bench.count("wr_req"), bench.count("map_ops")) == (1, 0), "the count before the pages"
    assert bench.indirect(WRITE, WHOLE, refs=(UNGRANTED,)) == ERROR
    assert (bench.count("map_ops"), bench.count("map_pages")) == (1, 0), "the pages before read-only"
    assert bench.indirect(WRITE, BlkifSegment(GrantRef(0), 0, 7), sector=1 << 60) == ERROR
    assert (bench.count("map_ops"), bench.count("map_pages")) == (2, 1), "read-only before the data's pages"


@pytest.mark.parametrize("page_order", range(5))
@pytest.mark.parametrize("count", [1, 11, 12, 22, 23, 100, 256])
def test_what_an_indirect_request_maps(make: Make, count: int, page_order: int) -> None:
    bench = make(X86_64, page_order=page_order)
    assert bench.indirect(READ, *first_sectors(count)) == OKAY
    assert (bench.count("map_pages"), bench.count("unmap_pages")) == (count + 1, count + 1)
    assert (bench.count("map_ops"), bench.count("unmap_ops")) == (-(-count // 11) + 1, 2)


@pytest.mark.parametrize("page_order", range(5))
@pytest.mark.parametrize("count", [1, 11])
def test_what_a_direct_request_maps(make: Make, count: int, page_order: int) -> None:
    bench = make(X86_64, page_order=page_order)
    assert bench.status(READ, *first_sectors(count)) == OKAY
    assert [bench.count(f"{name}_pages") for name in ("map", "unmap")] == [count, count]
    assert [bench.count(f"{name}_ops") for name in ("map", "unmap")] == [1, 1]


def test_kept_pages_are_mapped_once_those_of_segments_too(make: Make) -> None:
    bench = make(X86_64, persistent=True)
    for _ in range(3):
        assert bench.indirect(READ, *first_sectors(NR_DATA_FRAMES)) == OKAY
    assert (bench.count("map_pages"), bench.count("unmap_ops")) == (NR_DATA_FRAMES + 1, 0)
    assert bench.count("persistent_hits") == 2 * (NR_DATA_FRAMES + 1)


def test_one_reference_for_all_segments(make: Make) -> None:
    """Each but the first has a mapping of its own, which is undone with the request."""
    bench = make(X86_64, persistent=True)
    assert bench.indirect(READ, *[BlkifSegment(GrantRef(8), 0, 0)] * 40) == OKAY
    assert (bench.count("map_pages"), bench.count("unmap_pages")) == (41, 39)
    assert (bench.count("persistent_current"), bench.count("unmap_ops")) == (2, 1)


def test_a_reference_is_mapped_255_times_at_most(make: Make) -> None:
    """Xen has no more pins for it."""
    bench = make(X86_64)
    assert bench.indirect(READ, *[BlkifSegment(GrantRef(8), 0, 0)] * 255) == OKAY
    assert bench.indirect(READ, *[BlkifSegment(GrantRef(8), 0, 0)] * 256) == ERROR
    assert bench.count("map_pages") == bench.count("unmap_pages") == 1 + 255 + 1 + 255


def test_a_kept_page_that_changes_sides(make: Make) -> None:
    """The same references are first of segments, then of data."""
    bench = make(X86_64, persistent=True)
    assert bench.indirect(READ, *first_sectors(20)) == OKAY
    assert bench.status(READ, BlkifSegment(GrantRef(FIRST_TABLE), 0, 7)) == OKAY
    assert bytes(bench.table(0)) == bench.disk.pread(4096, 0)
    assert (bench.count("map_pages"), bench.count("persistent_hits")) == (21, 1)


def test_copies_of_an_indirect_request(make: Make) -> None:
    bench = make(X86_64, grant_copy=True)
    assert bench.indirect(WRITE, *first_sectors(50)) == OKAY
    assert (bench.count("copy_ops"), bench.count("copy_pages"), bench.count("map_ops")) == (2, 51, 0)


# Sectors of 4096 bytes


def test_sectors_of_4096_bytes_are_moved_whole(make: Make, abi: Abi) -> None:
    bench = make(abi, sector_size=4096)
    assert bench.status(READ, WHOLE, sector=8) == OKAY
    for sector in (1, 4, 7):
        assert bench.status(READ, WHOLE, sector=sector) == ERROR
    for first, last in [(0, 0), (0, 6), (1, 7), (7, 7)]:
        assert bench.status(WRITE, WHOLE, BlkifSegment(GrantRef(9), first, last), sector=8) == ERROR
    assert bench.status(FLUSH, sector=1) == OKAY, "a flush without data goes nowhere"
    assert bench.indirect(READ, *whole(12), sector=8) == OKAY
    assert bench.indirect(READ, *whole(12), sector=4) == ERROR
    assert bench.discard(8, 16) == OKAY
    assert [bench.discard(8, 4), bench.discard(4, 8)] == [ERROR, ERROR]
    assert bench.count("ds_req") == 3, "its sectors are looked at after it was counted"


def test_the_first_thing_wrong_with_a_large_sector(make: Make, abi: Abi) -> None:
    bench = make(abi, sector_size=4096)
    assert bench.status(READ, BlkifSegment(GrantRef(0xFFFFFFFF), 0, 3), sector=4) == ERROR
    assert bench.count("map_ops") == 0, "whole sectors before the data's pages"
