"""The life of a request, from the ring to the disk and back: the readable specification of the backend's data path.

    ring slot --copy--> private bytes --parse--> request --check--> pages of the guest --I/O--> disk
                                                                          |
    ring slot <--response-- status <---------- unmapped, or kept ---------+

1. `serve_batch` takes requests off the ring, at most a ring's worth, then publishes all responses at once and sends one
   notification if the event index asks for it.
2. `consume` copies a slot once. The guest may scribble over the slot from then on; only the copy is looked at.
3. `_check` refuses what the protocol forbids, in the order of Linux's blkback, before anything is mapped.
4. `access.pages` lends the guest's pages: found in the persistent cache, mapped for this request, or copied.
5. The disk reads into the pages or writes from them, segment after segment.
6. Leaving `access.pages` unmaps what is not kept. Only then
7. `put` writes the response over a slot: seeing it, the guest takes its pages back.

Whatever a guest sends ends in a status for that guest. The statuses and their order are those of Linux's
xen-blkback/blkback.c (`dispatch_rw_block_io`); units are 512-byte sectors throughout (io/blkif.h).
"""

import logging
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, SECTOR_SIZE, SECTORS_PER_PAGE
from xenblk.blkback.access import DataAccess
from xenblk.blkback.charging import RECORDS_PER_PAGE_MAX, ChargedRecords
from xenblk.blkif import Abi, BlkifOp, BlkifRequest, BlkifResponse, BlkifStatus
from xenblk.counters import Counters
from xenblk.disk import Disk
from xenblk.errors import BlkifPeerError, GrantError
from xenblk.ring import BackRing

_log: Final = logging.getLogger("xenblk.blkback")

_SERVED: Final = (BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE)


class PythonEngine:
    """Serves one ring of one device. The caller notifies the guest when `serve_batch` says so."""

    def __init__(
        self,
        ring: BackRing,
        abi: Abi,
        disk: Disk,
        access: DataAccess,
        counters: Counters,
        records: ChargedRecords | None = None,
    ) -> None:
        self._ring = ring
        self._records = records or ChargedRecords(RECORDS_PER_PAGE_MAX, None)
        self._abi = abi
        self._disk = disk
        self._access = access
        self._counters = counters

    def serve_batch(self) -> tuple[bool, bool]:
        """Serve what is on the ring; returns (notify the guest?, call again before sleeping?).

        RingPeerError if the guest published an impossible index: the ring is finished then.
        """
        served = 0
        while served < self._ring.nr_ents and (slot := self._consume()) is not None:
            self._ring.put(self._abi.pack_response(self._answer(slot)))
            served += 1
        notify = served > 0 and self._publish()
        return notify, self._ring.final_check()

    def _consume(self) -> bytes | None:
        if not self._records.available:
            self._counters.oo_req += self._ring.look()
            return None
        slot = self._ring.consume()
        if slot is not None:
            self._records.take()
        return slot

    def _publish(self) -> bool:
        notify = self._ring.push()
        if notify:
            self._counters.notify_sent += 1
        else:
            self._counters.notify_held += 1
        return notify

    def _answer(self, slot: bytes) -> BlkifResponse:
        request = self._abi.parse_request(slot)
        if not isinstance(request, BlkifRequest) or request.operation not in _SERVED:
            return BlkifResponse(request.id, request.operation, BlkifStatus.EOPNOTSUPP)
        self._count(request)
        try:
            self._check(request)
            self._execute(request)
            status = BlkifStatus.OKAY
        except (BlkifPeerError, GrantError, OSError) as e:
            _log.debug("request %#x refused: %s", request.id, e)
            status = BlkifStatus.ERROR
        return BlkifResponse(request.id, request.operation, status)

    def _count(self, request: BlkifRequest) -> None:
        if request.operation == BlkifOp.READ:
            self._counters.rd_req += 1
        elif request.operation == BlkifOp.WRITE:
            self._counters.wr_req += 1
        else:
            self._counters.f_req += 1

    def _check(self, request: BlkifRequest) -> None:
        """Raise BlkifPeerError for a request that must not reach the grants or the disk."""
        is_flush = request.operation == BlkifOp.FLUSH_DISKCACHE
        if request.nr_segments == 0 and not is_flush:
            raise BlkifPeerError("a read or write has at least 1 segment, this one has 0")
        if request.nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST:
            raise BlkifPeerError(
                f"a request has at most {BLKIF_MAX_SEGMENTS_PER_REQUEST} segments, this one has {request.nr_segments}"
            )
        for segment in request.segments:
            if not segment.first_sect <= segment.last_sect < SECTORS_PER_PAGE:
                raise BlkifPeerError(
                    f"a segment covers sectors within 0 to {SECTORS_PER_PAGE - 1} of its page, "
                    f"not {segment.first_sect} to {segment.last_sect}"
                )
        if request.operation != BlkifOp.READ and self._disk.read_only:
            raise BlkifPeerError("the disk is read-only")
        nr_sectors = _sectors(request)
        if nr_sectors and request.sector_number + nr_sectors > self._disk.size // SECTOR_SIZE:
            raise BlkifPeerError(
                f"the disk has {self._disk.size // SECTOR_SIZE} sectors; the request is for {nr_sectors} sectors "
                f"from {request.sector_number}"
            )

    def _execute(self, request: BlkifRequest) -> None:
        """Move the data; a flush makes earlier writes durable first and may carry data of its own."""
        to_device = request.operation != BlkifOp.READ
        offset = request.sector_number * SECTOR_SIZE
        if request.operation == BlkifOp.FLUSH_DISKCACHE:
            self._disk.flush()
        if not request.segments:
            return
        with self._access.pages(request.segments, to_device) as buffers:
            if to_device:
                self._disk.pwritev(buffers, offset)
                self._counters.wr_sect += _sectors(request)
            else:
                self._disk.preadv(buffers, offset)
                self._counters.rd_sect += _sectors(request)


def _sectors(request: BlkifRequest) -> int:
    return sum(segment.last_sect - segment.first_sect + 1 for segment in request.segments)
