"""The frontend driver of one virtual disk: bios in and out.

Two threads touch a device. A *xenwatch* thread of its own follows the backend's state (handshake.py); the user's thread
submits and polls. They share the device's lock, and the event channel wakes a sleeping `poll` when the device is lost.
More threads may drive a queue each in C (`native`), where the queue's lock stands in for the device's.
A device that is lost stays lost: what was in flight and what comes later ends with an OSError that says why.
"""

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from typing import Any, Final, Unpack

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkfront.bio import Bio, checked_bio
from xenblk.blkfront.handshake import LIVENESS_S, Handshake
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkfront.options import FrontendOptions, OptionValues
from xenblk.blkfront.queues import Queues
from xenblk.blkif import BlkifOp
from xenblk.errors import PeerError, UsageError
from xenblk.grants import Page
from xenblk.platform import Platform
from xenblk.vdev import vdev_name

_log: Final = logging.getLogger("xenblk.blkfront")


class Blkfront:
    """One virtual disk of this domain, by its `handle` (virtual device number). `connect` first, `close` at the end.

    `engine` moves the data: "native" is compiled, "python" is its readable twin. `poll_us` bounds how long the native
    one looks for a response before it sleeps, 0 is not at all. `protocol` is the layout of requests: "x86_64-abi", or
    "x86_32-abi" as a guest of 32 bits has it.

    `ring_page_order`, `nr_queues`, `max_indirect_segments` and `feature_persistent` are wishes: the backend may offer
    less. A backend that is not `trusted`, by this or by the toolstack's word, sees pages of a pool only. With `recover`
    a disk whose backend dies or restarts keeps what is in flight, and submits it to the next backend. `on_resize` is
    called with the disk's new size, from the xenwatch thread.
    """

    def __init__(self, platform: Platform, handle: int, **options: Unpack[OptionValues]) -> None:
        self._options = FrontendOptions(**options)
        self.engine = self._options.engine
        self.handle = handle
        self._platform = platform
        self._path = f"/local/domain/{platform.domid}/device/vbd/{handle}"
        self._buffers: dict[int, list[Page]] = {}
        self._xenbus = Handshake(platform, handle, self._options)
        self._lock = self._xenbus.lock

    @property
    def backend_id(self) -> Domid:
        """The domain that serves the disk."""
        return self._xenbus.nodes.backend_id

    @property
    def size(self) -> int:
        """The disk's size in bytes; 0 before `connect`. The backend may change it."""
        return self._xenbus.properties.size if self._xenbus.properties else 0

    @property
    def sector_size(self) -> int:
        """The disk's blocks, in bytes: what offsets and lengths are multiples of."""
        return self._xenbus.properties.sector_size if self._xenbus.properties else SECTOR_SIZE

    @property
    def read_only(self) -> bool:
        """Whether the backend refuses writes."""
        return self._xenbus.properties is not None and self._xenbus.properties.read_only

    @property
    def persistent(self) -> bool:
        """Whether both sides agreed on persistent grants."""
        return self._xenbus.persistent

    @property
    def nr_queues(self) -> int:
        """How many rings there are; 0 while there is no connection."""
        with self._lock:
            return len(self._xenbus.queues.rings) if self._xenbus.queues else 0

    # Connecting and closing

    def connect(self, timeout_s: float = 10.0) -> None:
        """Shake hands; returns when requests can flow. OSError if the backend refuses or takes longer."""
        self._xenbus.connect(timeout_s)

    def resume(self) -> None:
        """After the domain was suspended: connect anew, and submit again what was in flight. OSError if it is lost."""
        self._xenbus.resume()

    def close(self, timeout_s: float = 5.0) -> None:
        """Leave in good order: wait until the backend unmapped everything, then give all pages and grants back."""
        self._xenbus.close(timeout_s)

    # Requests

    def allocate(self, nr_bytes: int) -> memoryview:
        """Page-aligned memory of the domain, which a connection without persistent grants lends without a copy."""
        pages = self._platform.memory.allocate_run(max(1, -(-nr_bytes // PAGE_SIZE)))
        self._buffers[pages[0].frame] = pages
        return self._platform.memory.join(pages)[:nr_bytes]

    def free(self, buffer: memoryview) -> None:
        """Give memory of `allocate` back; no bio may use it any more. UsageError for any other buffer.

        What the backend did not let go of, as when the disk was lost, is never used again.
        """
        located = self._platform.memory.locate(buffer)
        pages = self._buffers.pop(located[0], None) if located else None
        if pages is None:
            raise UsageError("only a buffer that this disk allocated can be freed")
        buffer.release()
        if self._platform.grant_table.grants(pages[0].frame, len(pages)):
            _log.warning("%s: %d pages are granted to the backend still, and not used again", self._path, len(pages))
            return
        self._platform.memory.free_pages(pages)

    def submit(
        self, op: BlkifOp, offset: int = 0, buffer: memoryview | None = None, *, nr_bytes: int = 0, secure: bool = False
    ) -> Bio:
        """Queue an operation; `poll` sends it. UsageError if no disk could serve it, OSError if this one is lost.

        Offset and length are multiples of `sector_size` within the disk; the buffer is left alone until the bio is
        done. A discard has `nr_bytes` and no buffer.
        """
        bio = self._checked(op, offset, buffer, nr_bytes, secure)
        if self.read_only and op != BlkifOp.READ:
            raise OSError(errno.EROFS, f"disk {vdev_name(self.handle)} is read-only: it can be read, not {op.name}")
        with self._lock:
            queues = self._queues_or_none()
            if queues is not None:
                queues.submit([bio])
            else:
                self._xenbus.unfinished.append(bio)
        return bio

    def _checked(self, op: BlkifOp, offset: int, buffer: memoryview | None, nr_bytes: int, secure: bool) -> Bio:
        bio = checked_bio(op, offset, buffer, nr_bytes, secure, self.size)
        count = nr_bytes if bio.buffer is None else bio.buffer.nbytes
        if offset % self.sector_size or count % self.sector_size:
            raise UsageError(f"offset {offset} and length {count} must be multiples of {self.sector_size} bytes")
        return bio

    @contextlib.contextmanager
    def native(self, queue: int = 0) -> Iterator[Any]:
        """The native engine of a queue itself, a `struct xb_front` (engine.h), to submit and poll bios from C.

        The queue is the caller's alone meanwhile, whatever other threads do with other queues, so nobody can tell it
        that its backend is gone: hold this for parts of a second, and use nothing else of the disk inside.

        UsageError if the engine is another, there is no such queue, or bios of `submit` are in flight on it; OSError if
        the disk is lost. When it is lost, all bios end without a word to whoever submitted them from C.
        """
        with self._lock:
            queues = self._queues()
            engine = self._native_engine(queues, queue)
            queues.locks.acquire(queue)
        try:
            yield engine.native
            fault = engine.peer_fault
            queues.reclaim_one(queue, time.monotonic_ns())
        finally:
            queues.locks.release(queue)
        with self._losing_it():
            if fault is not None:
                raise fault
        self._xenbus.check_backend()

    def _native_engine(self, queues: Queues, queue: int) -> NativeFrontEngine:
        if not 0 <= queue < len(queues.rings):
            raise UsageError(f"the disk's queues are 0 to {len(queues.rings) - 1}, not {queue}")
        engine = queues.engines[queue]
        if not isinstance(engine, NativeFrontEngine):
            raise UsageError(f"the engine of this disk is {self.engine}, not native")
        if engine.holds_bios:
            raise UsageError("bios are in flight that were submitted from Python: poll them first")
        return engine

    @contextlib.contextmanager
    def _losing_it(self) -> Iterator[None]:
        """A backend that cannot be believed is the end of the disk."""
        try:
            yield
        except PeerError as e:
            self._xenbus.lose(OSError(errno.EIO, f"disk {vdev_name(self.handle)} is disabled for further use: {e}"))

    @property
    def lost(self) -> bool:
        """Whether the disk is lost for good, and everything that was in flight ended."""
        with self._lock:  # lost, and in the middle of ending what is in flight, is not yet
            return self._xenbus.lost is not None

    def _queues_or_none(self) -> Queues | None:
        """The queues; None while the disk waits for its next backend. OSError if it is lost."""
        if self._xenbus.lost is not None:
            raise self._xenbus.lost
        if self._xenbus.properties is None:
            raise UsageError("the disk is not connected")
        return self._xenbus.queues if self._xenbus.connected else None

    def _queues(self) -> Queues:
        queues = self._queues_or_none()
        if queues is None:
            raise UsageError("the disk waits for its next backend")
        return queues

    def fileno(self) -> int:
        """A descriptor that is readable when something may have happened, once `poll(0)` returned nothing."""
        with self._lock:
            if self._xenbus.waiter is not None:
                self._queues_or_none()
                return self._xenbus.waiter.fileno()
            return self._queues().rings[0].channel.fileno()

    def take_event(self) -> None:
        """After the descriptor became readable, before the next `poll`."""
        with self._lock:
            if self._xenbus.waiter is not None:
                self._xenbus.waiter.wait(0)
            if self._xenbus.queues is not None:
                self._xenbus.queues.take_events()
        self._xenbus.check_backend()

    def poll(self, timeout_s: float | None = None) -> list[Bio]:
        """Send what was submitted, wait until a bio is done, return all that are; empty after the timeout."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                done, sleep = self._step()
                queues, waiter = self._xenbus.queues, self._xenbus.waiter
            if done or not sleep:
                return done
            left_s = LIVENESS_S if deadline_s is None else min(LIVENESS_S, deadline_s - time.monotonic())
            if left_s <= 0:
                return []
            if waiter is not None:
                waiter.wait(left_s)
                self.take_event()
            elif queues is not None:
                queues.wait(None if left_s >= LIVENESS_S else left_s)
                self._xenbus.check_backend()
            else:
                self._xenbus.wait_for_queues(left_s)

    def _step(self) -> tuple[list[Bio], bool]:
        """One round under the lock: (bios that are done, whether there is something to wait for)."""
        xenbus = self._xenbus
        if xenbus.finished or xenbus.lost is not None or xenbus.queues is None or not xenbus.connected:
            done, xenbus.finished = xenbus.finished, []
            return done, not done and xenbus.lost is None and bool(xenbus.unfinished)
        with self._losing_it():
            return xenbus.queues.step()
        return self._step()
