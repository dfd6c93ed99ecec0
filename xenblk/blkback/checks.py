"""What the protocol forbids: BlkifPeerError for a request that must not reach the disk.

The order is that of Linux's blkback (`dispatch_rw_block_io`): the number of segments, then, once all are in private
memory, each of them, then read-only, the end of the disk, and whole sectors of its size. All sectors here are 512 bytes
whatever the disk's sectors are (io/blkif.h).
"""

from collections.abc import Sequence
from typing import Final

from xenblk.abi import SECTOR_SIZE, SECTORS_PER_PAGE
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, DiscardRequest
from xenblk.disk import Disk
from xenblk.errors import BlkifPeerError

FLUSHES: Final = (BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE)
"""What may come without data, and makes earlier writes durable first."""


def count_sectors(segments: Sequence[BlkifSegment]) -> int:
    """What the segments cover."""
    return sum(segment.last_sect - segment.first_sect + 1 for segment in segments)


def check_count(operation: int, nr_segments: int, max_segments: int) -> None:
    """The number of segments, before any of them is looked at."""
    if nr_segments == 0 and operation not in FLUSHES:
        raise BlkifPeerError("a read or write has at least 1 segment, this one has 0")
    if nr_segments > max_segments:
        raise BlkifPeerError(f"a request has at most {max_segments} segments, this one has {nr_segments}")


def check_segments(request: BlkifRequest) -> None:
    """Each within its page."""
    for segment in request.segments:
        if not segment.first_sect <= segment.last_sect < SECTORS_PER_PAGE:
            raise BlkifPeerError(
                f"a segment covers sectors within 0 to {SECTORS_PER_PAGE - 1} of its page, "
                f"not {segment.first_sect} to {segment.last_sect}"
            )


def check_place(request: BlkifRequest, disk: Disk) -> None:
    """Where the data goes or comes from; a flush without data goes nowhere."""
    nr_sectors = count_sectors(request.segments)
    if request.operation != BlkifOp.READ:
        _require_writable(disk)
    _require_range(request.sector_number, nr_sectors, disk)
    if request.segments:
        _require_whole_sectors(request.sector_number, disk)
    for segment in request.segments:
        _require_whole_sectors(segment.last_sect - segment.first_sect + 1, disk)


def check_discard_range(request: DiscardRequest, disk: Disk) -> None:
    """What of a discard decides whether it is counted."""
    _require_writable(disk)
    _require_range(request.sector_number, request.nr_sectors, disk)


def check_discard_sectors(request: DiscardRequest, disk: Disk) -> None:
    """The rest. What is no multiple of the disk's granularity is a matter of the disk: it frees what it can."""
    _require_whole_sectors(request.sector_number, disk)
    _require_whole_sectors(request.nr_sectors, disk)


def _require_writable(disk: Disk) -> None:
    if disk.read_only:
        raise BlkifPeerError("the disk is read-only")


def _require_range(sector: int, nr_sectors: int, disk: Disk) -> None:
    disk_sectors = disk.size // SECTOR_SIZE
    if nr_sectors and sector + nr_sectors > disk_sectors:
        raise BlkifPeerError(
            f"the disk has {disk_sectors} sectors; the request is for {nr_sectors} sectors from {sector}"
        )


def _require_whole_sectors(number: int, disk: Disk) -> None:
    unit = disk.sector_size // SECTOR_SIZE
    if number % unit:
        raise BlkifPeerError(
            f"the disk has sectors of {disk.sector_size} bytes, {unit} of 512; {number} is no multiple"
        )
