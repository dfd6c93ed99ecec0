"""The native engine of one ring at work: what engine.h describes, and a thread that keeps its house."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from xenblk._native import ffi, lib
from xenblk.abi import SECTOR_SIZE
from xenblk.blkback.charging import Charging
from xenblk.blkback.housekeeping import Housekeeper
from xenblk.blkback.journal import Journal
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.ring_thread import start_thread
from xenblk.blkback.stats_log import StatsLog
from xenblk.blkif import BlkifOp
from xenblk.counters import Counters
from xenblk.disk import FileDisk, MemoryDisk
from xenblk.errors import UsageError
from xenblk.grants import ForeignDomain, GrantMapper, OverflowFlag
from xenblk.platform import EventChannel
from xenblk.ring import BackRing

NativeDisk = MemoryDisk | FileDisk
"""What the native engine can serve."""


class NativeServer:
    """Serves one ring of one disk. `run` in the ring's thread, `stop` from any; `close` when `run` has returned.

    `unsupported` is told as PythonEngine's is, after the batch. A `journal` has an entry for each slot of the ring.

    Kept pages are purged by `start`'s thread; without it, by whoever calls `purge`.

    All arguments are the caller's and outlive it. OSError ENOMEM if there is no memory for its tables.
    """

    def __init__(
        self,
        ring: BackRing,
        disk: NativeDisk,
        mapper: GrantMapper,
        domain: ForeignDomain,
        channel: EventChannel,
        counters: Counters,
        parameters: BackendParameters,
        *,
        persistent: bool,
        overflowed: OverflowFlag | None = None,
        stats: StatsLog | None = None,
        charging: Charging | None = None,
        unsupported: Callable[[int], None] | None = None,
        max_indirect_segments: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._unsupported = unsupported or (lambda _operation: None)
        self._ring = ring
        self._parameters = parameters
        self._channel = channel
        self._charging = charging
        overflowed = OverflowFlag() if overflowed is None else overflowed
        self._held = (disk, mapper, domain, counters, overflowed)  # pointers do not keep what they point to
        # As for a ring: the address is taken once, and a view of our own keeps the memory.
        self._fields = counters.fields[:]
        with ffi.from_buffer(self._fields, require_writable=True) as fields:
            fields_address = ffi.cast("struct xb_counters *", fields)
        config = ffi.new("struct xb_back_config *")
        config.ring = ring.native
        config.mapper = mapper.native
        config.grantor = domain.native
        config.counters = fields_address
        config.channel = channel.native
        _set_disk(config, disk)
        config.persistent = persistent
        config.grant_copy = parameters.grant_copy
        config.max_persistent_grants = parameters.max_persistent_grants
        config.unused_timeout_ns = _nanoseconds(parameters.persistent_grant_unused_seconds)
        config.overflowed = overflowed.native
        config.max_buffer_pages = parameters.max_buffer_pages
        config.secret = int.from_bytes(os.urandom(8), "little")
        config.poll_us = parameters.poll_us
        config.max_indirect_segments = (
            parameters.max_indirect_segments if max_indirect_segments is None else max_indirect_segments
        )
        if journal is not None:
            config.journal, config.journal_fd = journal.native, journal.fd
        config.nr_records = parameters.records_per_page * ring.nr_pages
        config.charged_by_hand = charging is not None
        self._native: Any = lib.xb_back_create(config)
        if self._native == ffi.NULL:
            self._fields.release()
            raise OSError(errno.ENOMEM, "there is no memory for the tables of a ring")
        self._stats = stats
        self._max_buffer_pages = parameters.max_buffer_pages
        self._housekeeper = Housekeeper(self._keep_house)

    def start(self) -> None:
        """Purge and log beside `run`, until `close`; OSError EAGAIN if the system gives no thread."""
        start_thread(self._housekeeper)

    def _keep_house(self) -> None:
        now_ns = time.monotonic_ns()
        self.purge(now_ns)
        self._heed_max_buffer_pages()
        if self._stats is not None:
            self._stats.tick(now_ns / 1e9)

    def run(self) -> None:
        """Serve until `stop`. RingPeerError if the guest published an impossible index: the ring is finished then."""
        while (ended := lib.xb_back_run(self._native)) in (lib.XB_BACK_LIVE, lib.XB_BACK_UNSUPPORTED):
            self._tell()
        self._tell()
        if ended == lib.XB_RING_BROKEN:
            raise self._ring.broken()

    def _tell(self) -> None:
        self._tell_live()
        operations = lib.xb_back_unsupported(self._native)
        for operation in (BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE):
            if operations & 1 << operation:
                self._unsupported(operation)

    def _tell_live(self) -> None:
        user_id = ffi.new("uint64_t *")
        while lib.xb_back_live(self._native, user_id):
            if self._charging is not None:
                self._charging.live(int(user_id[0]))

    def _heed_max_buffer_pages(self) -> None:
        if self._max_buffer_pages != self._parameters.max_buffer_pages:
            self._max_buffer_pages = self._parameters.max_buffer_pages
            self._channel.wake()  # the pages are its thread's, and it looks at the limit before it sleeps

    @property
    def buffer_pages(self) -> int:
        """Pages for copies that are kept for the next requests; the ring's thread only."""
        return int(lib.xb_back_buffer_pages(self._native))

    def serve_batch(self, now_ns: int | None = None) -> tuple[bool, bool]:
        """One batch, at `now_ns` of any monotonic clock: (was there anything?, is there something to serve already?).

        RingPeerError as `run`.
        """
        served = lib.xb_back_serve(self._native, time.monotonic_ns() if now_ns is None else now_ns)
        self._tell()
        if served < 0:
            raise self._ring.broken()
        return served > 0, bool(lib.xb_back_final_check(self._native))

    def charge(self, user_id: int) -> bool:
        """Make one more request possible, charged by hand; False if all records are charged or in use."""
        charged = bool(lib.xb_back_charge(self._native, user_id))
        self._channel.wake()
        return charged

    def purge(self, now_ns: int) -> int:
        """Unmap what was kept for too long or is too much; how many pages that were.

        The parameters are read anew each time: they may change while the ring is served.
        """
        lib.xb_back_set_limits(
            self._native,
            self._parameters.max_persistent_grants,
            _nanoseconds(self._parameters.persistent_grant_unused_seconds),
            self._parameters.max_buffer_pages,
        )
        return int(lib.xb_back_purge(self._native, now_ns))

    def resize(self, size: int, /) -> None:
        """The file has another size now, in bytes; from any thread."""
        lib.xb_back_resize(self._native, size // SECTOR_SIZE)

    def stop(self) -> None:
        """Let `run` return soon."""
        lib.xb_back_stop(self._native)
        self._channel.wake()

    def close(self) -> None:
        """Unmap everything and give all memory back; charges that no request used are told as discarded."""
        self._housekeeper.stop()
        self._tell_discarded()
        lib.xb_back_destroy(self._native)
        self._native = ffi.NULL
        self._fields.release()

    def _tell_discarded(self) -> None:
        user_id = ffi.new("uint64_t *")
        while lib.xb_back_discharge(self._native, user_id):
            if self._charging is not None:
                self._charging.discarded(int(user_id[0]))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _set_disk(config: Any, disk: NativeDisk) -> None:
    config.disk_sectors = disk.size // SECTOR_SIZE
    config.sector_bytes = disk.sector_size
    config.read_only = disk.read_only
    config.can_discard = disk.discard_granularity > 0
    if isinstance(disk, MemoryDisk):
        with ffi.from_buffer(disk.memory) as memory:
            config.disk_memory = memory
    elif isinstance(disk, FileDisk):
        config.disk_fd = disk.fileno()
        config.disk_mapped = disk.mapped
    else:
        raise UsageError(f"the native engine serves memory and files, not {type(disk).__name__}")
