"""The life of a request, from the ring to the disk and back: the readable specification of the backend's data path.

    ring slot --copy--> private bytes --parse--> request --check--> pages of the guest --I/O--> disk
                                                                          |
    ring slot <--response-- status <---------- unmapped, or kept ---------+

1. `serve_batch` takes requests off the ring, at most a ring's worth, then publishes all responses at once and sends one
   notification if the event index asks for it.
2. `consume` copies a slot once. The guest may scribble over the slot from then on; only the copy is looked at.
3. An indirect request is a read or write whose segments stand in pages of their own: `access.read` copies them, once,
   and lets those pages go. From here on it is that read or write, and is answered as one.
4. checks.py refuses what the protocol forbids, before any page of data is mapped.
5. `access.pages` lends the guest's pages: found in the persistent cache, mapped for this request, or copied.
6. The disk reads into the pages or writes from them, segment after segment.
7. Leaving `access.pages` unmaps what is not kept. Only then
8. `put` writes the response over a slot: seeing it, the guest takes its pages back.

A barrier is to come after all requests before it. Here none of them is in flight any more, so it is a flush.

Whatever a guest sends ends in a status for that guest. The statuses and their order are those of Linux's
xen-blkback/blkback.c (`dispatch_rw_block_io`, `dispatch_discard_io`); units are 512-byte sectors throughout
(io/blkif.h).
"""

import errno
import logging
from collections.abc import Callable
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, SECTOR_SIZE
from xenblk.blkback.access import DataAccess
from xenblk.blkback.charging import RECORDS_PER_PAGE_MAX, ChargedRecords
from xenblk.blkback.checks import (
    FLUSHES,
    check_count,
    check_discard_range,
    check_discard_sectors,
    check_place,
    check_segments,
    count_sectors,
)
from xenblk.blkback.journal import Journal
from xenblk.blkif import (
    BLKIF_DISCARD_SECURE,
    SEGMENT_BYTES,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifStatus,
    DiscardRequest,
    IndirectRequest,
    Request,
    parse_segments,
)
from xenblk.counters import Counters
from xenblk.disk import Disk
from xenblk.errors import BlkifPeerError, GrantError
from xenblk.ring import BackRing

_log: Final = logging.getLogger("xenblk.blkback")

_SERVED: Final = (BlkifOp.READ, BlkifOp.WRITE, *FLUSHES)


class PythonEngine:
    """Serves one ring of one device. The caller notifies the guest when `serve_batch` says so.

    `max_indirect_segments` 0 serves no indirect requests. `unsupported` is told of each flush or barrier that the disk
    has no way to do, by its operation, from the thread that serves and before the request is answered. A `journal` has
    an entry for each slot of the ring, at least.
    """

    def __init__(
        self,
        ring: BackRing,
        abi: Abi,
        disk: Disk,
        access: DataAccess,
        counters: Counters,
        records: ChargedRecords | None = None,
        *,
        max_indirect_segments: int = 256,
        unsupported: Callable[[int], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._ring = ring
        self._records = records or ChargedRecords(RECORDS_PER_PAGE_MAX, None)
        self._abi = abi
        self._disk = disk
        self._access = access
        self._counters = counters
        self._max_indirect_segments = max_indirect_segments
        self._unsupported = unsupported or (lambda _operation: None)
        self._journal = journal or Journal(ring.nr_ents)

    def serve_batch(self) -> tuple[bool, bool]:
        """Serve what is on the ring; returns (notify the guest?, call again before sleeping?).

        RingPeerError if the guest published an impossible index: the ring is finished then.
        """
        served = 0
        while served < self._ring.nr_ents and (slot := self._consume()) is not None:
            self._journal.take(served, slot, self._ring.req_cons - 1 & 0xFFFFFFFF)
            response = self._abi.pack_response(self._answer(slot))
            self._journal.answer(served, self._ring.rsp_prod)
            self._ring.put(response)
            served += 1
        notify = served > 0 and self._publish()
        for number in range(served):
            self._journal.forget(number)
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
        operation = request.operation
        if isinstance(request, IndirectRequest) and self._max_indirect_segments > 0:
            operation = request.indirect_op
        return BlkifResponse(request.id, operation, self._status(request, operation))

    def _status(self, request: Request, operation: int) -> BlkifStatus:
        try:
            self._serve(request)
        except (BlkifPeerError, GrantError, OSError) as e:
            _log.debug("request %#x refused: %s", request.id, e)
            # Of reads and writes a guest would not understand it.
            if (
                isinstance(e, OSError)
                and e.errno == errno.EOPNOTSUPP
                and operation not in (BlkifOp.READ, BlkifOp.WRITE)
            ):
                if operation in FLUSHES:
                    self._unsupported(operation)
                return BlkifStatus.EOPNOTSUPP
            return BlkifStatus.ERROR
        return BlkifStatus.OKAY

    def _serve(self, request: Request) -> None:
        if isinstance(request, DiscardRequest):
            self._discard(request)
        elif isinstance(request, IndirectRequest) and self._max_indirect_segments > 0:
            self._move(self._read_indirect(request))
        elif isinstance(request, BlkifRequest) and request.operation in _SERVED:
            self._count(request.operation)
            check_count(request.operation, request.nr_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)
            self._move(request)
        else:
            raise OSError(errno.EOPNOTSUPP, f"operation {request.operation} is not served")

    def _discard(self, request: DiscardRequest) -> None:
        """Nothing of the guest's is mapped; the secure flag means nothing where it is not offered."""
        check_discard_range(request, self._disk)
        self._counters.ds_req += 1
        if not self._disk.discard_granularity:
            raise OSError(errno.EOPNOTSUPP, "the disk has no discard")
        check_discard_sectors(request, self._disk)
        if request.nr_sectors:
            secure = bool(request.flag & BLKIF_DISCARD_SECURE) and self._disk.can_discard_securely
            self._disk.discard(request.sector_number * SECTOR_SIZE, request.nr_sectors * SECTOR_SIZE, secure)

    def _read_indirect(self, request: IndirectRequest) -> BlkifRequest:
        """The same request with its segments, of which the guest may change its own copy from now on."""
        operation = request.indirect_op
        if operation not in (BlkifOp.READ, BlkifOp.WRITE):
            raise BlkifPeerError(f"an indirect request is a read or a write, not operation {operation}")
        self._count(operation)
        check_count(operation, request.nr_segments, self._max_indirect_segments)
        table = self._access.read(request.indirect_grefs[: request.nr_pages], request.nr_segments * SEGMENT_BYTES)
        return BlkifRequest(
            operation, request.handle, request.id, request.sector_number, request.nr_segments, parse_segments(table)
        )

    def _count(self, operation: int) -> None:
        if operation == BlkifOp.READ:
            self._counters.rd_req += 1
        elif operation == BlkifOp.WRITE:
            self._counters.wr_req += 1
        else:
            self._counters.f_req += 1

    def _move(self, request: BlkifRequest) -> None:
        """Check, then move the data; a flush makes earlier writes durable first and may carry data of its own."""
        check_segments(request)
        check_place(request, self._disk)
        to_device = request.operation != BlkifOp.READ
        offset = request.sector_number * SECTOR_SIZE
        if request.operation in FLUSHES:
            self._disk.flush()
        if not request.segments:
            return
        with self._access.pages(request.segments, to_device) as buffers:
            if to_device:
                self._counters.wr_sect += count_sectors(request.segments)
                self._disk.pwritev(buffers, offset)
            else:
                self._counters.rd_sect += count_sectors(request.segments)
                self._disk.preadv(buffers, offset)
