"""The frontend driver of one virtual disk: the handshake with its backend, then bios in and out.

Two threads touch a device. A *xenwatch* thread of its own follows the backend's state by the table in xenbus.py; the
user's thread submits and polls. They share the device's lock, and the event channel wakes a sleeping `poll` when the
device is lost. A device that is lost stays lost: what was in flight and what comes later ends with an OSError that
says why.
"""

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkfront.bio import Bio, checked_bio
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import BlkifOp
from xenblk.engines import ENGINES, POLL_US, check_engine
from xenblk.errors import PeerError, PeerGoneError, UsageError, XenblkError, XenstoreError
from xenblk.grants import Page
from xenblk.platform import Platform
from xenblk.vdev import vdev_name
from xenblk.xenbus import FrontendAction, XenbusState, frontend_action, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_log: Final = logging.getLogger("xenblk.blkfront")

_TOKEN: Final = "backend"
_LIVENESS_S: Final = 0.25
"""How long anybody sleeps for a response, at most, before he looks whether there still is a backend."""
_PARTING_S: Final = 1.0
"""How long a backend that let go of the event channel has to write that it did, before it counts as dead."""

VDISK_READONLY: Final = 4


class Blkfront:
    """One virtual disk of this domain, by its `handle` (virtual device number). `connect` first, `close` at the end.

    `size` is in bytes; `persistent` is what both sides agreed on. `engine` moves the data: "native" is compiled,
    "python" is its readable twin. `poll_us` bounds how long the native one looks for a response before it sleeps, 0
    is not at all.
    """

    def __init__(
        self,
        platform: Platform,
        handle: int,
        *,
        feature_persistent: bool = True,
        ring_page_order: int = 0,
        engine: str = ENGINES[0],
        poll_us: int = POLL_US,
    ) -> None:
        check_engine(engine, poll_us)
        self.engine = engine
        self._poll_us = poll_us
        self.handle = handle
        self.size = 0
        self.read_only = False
        self.persistent = False
        self._platform = platform
        self._feature_persistent = feature_persistent
        self._ring_page_order = ring_page_order
        self._path = f"/local/domain/{platform.domid}/device/vbd/{handle}"
        self._store: Xenstore = platform.xenstore()
        try:
            self._backend_path = self._store.read(f"{self._path}/backend")
            self.backend_id = Domid(int(self._store.read(f"{self._path}/backend-id")))
        except XenstoreError:
            self._store.close()
            raise UsageError(f"domain {platform.domid} has no disk {vdev_name(handle)}: attach one first") from None
        self._state = XenbusState.INITIALISING
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._ring: Ring | None = None
        self._data: DataPath | None = None
        self._lost: OSError | None = None
        self._finished: list[Bio] = []
        self._closing = False
        self._buffers: dict[int, list[Page]] = {}
        self._xenwatch = threading.Thread(target=self._watch_backend, name=f"xenwatch-{handle}", daemon=True)

    # Connecting and closing

    def connect(self, timeout_s: float = 10.0) -> None:
        """Shake hands; returns when requests can flow. OSError if the backend refuses or takes longer."""
        self._switch_state(XenbusState.INITIALISING)
        self._store.watch(f"{self._backend_path}/state", _TOKEN)
        self._xenwatch.start()
        with self._changed:
            self._changed.wait_for(lambda: self._data is not None or self._lost is not None, timeout_s)
            if self._lost is not None:
                raise self._lost
            if self._data is None:
                raise OSError(errno.ETIMEDOUT, self._why_not_connected(timeout_s))

    def _why_not_connected(self, timeout_s: float) -> str:
        state = parse_state(self._store.read(f"{self._backend_path}/state", ""))
        return (
            f"the backend at {self._backend_path} did not connect within {timeout_s:g} s and is in state "
            f"{state.label}: is a backend running?"
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Leave in good order: wait until the backend unmapped everything, then give all pages and grants back."""
        with self._lock:
            self._closing = True
        try:
            self._say_goodbye(timeout_s)
        except XenblkError as e:
            _log.debug("%s: %s", self._path, e)
        self._store.close()
        if self._xenwatch.is_alive():
            self._xenwatch.join()
        self._give_back()

    def _say_goodbye(self, timeout_s: float) -> None:
        if self._state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
            self._switch_state(XenbusState.CLOSING)
            self._wait_for_backend(XenbusState.CLOSING, timeout_s)
        self._switch_state(XenbusState.CLOSED)
        self._wait_for_backend(XenbusState.CLOSED, timeout_s)

    def _wait_for_backend(self, at_least: XenbusState, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (now_s := time.monotonic()) < deadline_s:
            state = parse_state(self._store.read(f"{self._backend_path}/state", ""))
            if state >= at_least or state == XenbusState.UNKNOWN:
                return
            if self._backend_is_gone():
                deadline_s = min(deadline_s, now_s + _PARTING_S)
            time.sleep(0.002)
        if not self._backend_is_gone():
            _log.warning("%s: the backend is not %s after %g s", self._path, at_least.label, timeout_s)

    def _backend_is_gone(self) -> bool:
        return self._ring is not None and self._data is not None and not self._ring.channel.remote_bound

    def _give_back(self) -> None:
        self._lose(OSError(errno.ENODEV, f"disk {vdev_name(self.handle)} was closed"))
        with self._lock:
            if self._data is not None:
                self._data.close()
                self._data = None
            if self._ring is not None:
                self._ring.close()
                self._ring = None

    # Following the backend

    def _watch_backend(self) -> None:
        try:
            while not self._closing:
                event = self._store.next_event(_LIVENESS_S)
                if event is not None and not self._closing:
                    self._backend_changed()
                with self._lock:
                    if self._data is not None:
                        self._data.reclaim(time.monotonic_ns())
                if self._ring is not None:
                    # Who sleeps for a response sleeps without a timer, which would cost as much as the rest of it.
                    self._ring.channel.wake()
        except PeerGoneError as e:
            if not self._closing:
                self._lose(OSError(errno.ENODEV, str(e)))
        except (XenblkError, OSError) as e:
            self._lose(e if isinstance(e, OSError) else OSError(errno.EIO, str(e)))

    def _backend_changed(self) -> None:
        backend = parse_state(self._store.read(f"{self._backend_path}/state", ""))
        with self._lock:
            action = frontend_action(self._state, backend)
            _log.debug("%s: backend %s, own %s: %s", self._path, backend.name, self._state.name, action.name)
            if action in (FrontendAction.SETUP, FrontendAction.SETUP_AND_CONNECT):
                self._set_up()
            if action in (FrontendAction.CONNECT, FrontendAction.SETUP_AND_CONNECT):
                self._connected()
            elif action is FrontendAction.RESIZE:
                self.size = self._read_uint("sectors") * SECTOR_SIZE
        if action is FrontendAction.CLOSE:
            self._lose(OSError(errno.ENODEV, self._why_closed(backend)))
            self._switch_state(XenbusState.CLOSED)
        elif action is FrontendAction.LOST:
            self._lose(OSError(errno.ENODEV, f"the backend's nodes at {self._backend_path} were removed"))

    def _why_closed(self, backend: XenbusState) -> str:
        home, _, node = self._backend_path.partition("/backend/")
        try:
            reason = self._store.read(f"{home}/error/backend/{node}/error", "") or self._store.read(
                f"{self._backend_path}/hotplug-error", ""
            )
        except XenstoreError:
            reason = ""
        return f"the backend at {self._backend_path} went to {backend.label}" + (reason and f": {reason}")

    def _set_up(self) -> None:
        order = min(self._ring_page_order, self._read_uint("max-ring-page-order", 0))
        ring = self._ring = Ring(self._platform, self.backend_id, page_order=order)
        nodes = {**ring.keys(), "feature-persistent": str(int(self._feature_persistent))}

        def write(transaction: XenstoreTransaction) -> None:
            for key, value in nodes.items():
                transaction.write(f"{self._path}/{key}", value)

        self._store.transact(write)
        self._switch_state(XenbusState.INITIALISED)

    def _connected(self) -> None:
        assert self._ring is not None
        self.size = self._read_uint("sectors") * SECTOR_SIZE
        self.read_only = bool(self._read_uint("info") & VDISK_READONLY)
        self.persistent = self._feature_persistent and self._read_uint("feature-persistent", 0) == 1
        self._data = DataPath(
            self._platform,
            self._ring,
            self.backend_id,
            self.handle,
            self.persistent,
            engine=self.engine,
            poll_us=self._poll_us,
        )
        self._switch_state(XenbusState.CONNECTED)
        self._changed.notify_all()

    def _read_uint(self, key: str, default: int | None = None) -> int:
        text = self._store.read(f"{self._backend_path}/{key}", "")
        if text.isascii() and text.isdecimal():
            return int(text)
        if default is None:
            raise OSError(
                errno.EIO, f"the backend must write a number to {self._backend_path}/{key}, not {text[:40]!r}"
            )
        return default

    def _switch_state(self, state: XenbusState) -> None:
        self._state = state

        def write(transaction: XenstoreTransaction) -> None:
            if transaction.exists(f"{self._path}/state"):
                transaction.write(f"{self._path}/state", str(int(state)))

        self._store.transact(write)

    def _lose(self, error: OSError) -> None:
        """The device is no more: everything in flight ends with `error`."""
        with self._changed:
            if self._lost is None:
                self._lost = error
                if self._data is not None:
                    self._finished += self._data.engine.fail_all(error)
            self._changed.notify_all()
            if self._ring is not None:
                self._ring.channel.wake()

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
        for page in pages:
            self._platform.memory.free_page(page)

    def submit(
        self, op: BlkifOp, offset: int = 0, buffer: memoryview | None = None, *, nr_bytes: int = 0, secure: bool = False
    ) -> Bio:
        """Queue an operation; `poll` sends it. UsageError if no disk could serve it, OSError if this one is lost.

        Offset and length are multiples of 512 bytes within the disk; the buffer is left alone until the bio is done.
        A discard has `nr_bytes` and no buffer.
        """
        return self._submit([checked_bio(op, offset, buffer, nr_bytes, secure, self.size)])[0]

    def submit_batch(self, operations: Iterable[tuple[BlkifOp, int, memoryview | None]]) -> list[Bio]:
        """As `submit`, for any number of operations; all of them or none."""
        return self._submit([checked_bio(*operation, 0, False, self.size) for operation in operations])

    def _submit(self, bios: list[Bio]) -> list[Bio]:
        name = next((bio.op.name for bio in bios if bio.op != BlkifOp.READ), None)
        if self.read_only and name is not None:
            raise OSError(errno.EROFS, f"disk {vdev_name(self.handle)} is read-only: it can be read, not {name}")
        with self._lock:
            engine = self._data_path().engine
            for bio in bios:
                engine.submit(bio)
        return bios

    @contextlib.contextmanager
    def native(self) -> Iterator[Any]:
        """The native engine itself, a `struct xb_front` (engine.h), to submit and poll bios from C.

        The disk is the caller's alone meanwhile, so nobody can tell it that its backend is gone: hold this for parts of
        a second. UsageError if the engine is another, or bios of `submit` are in flight; OSError if the disk is lost.
        When it is lost, all bios end without a word to whoever submitted them from C.
        """
        with self._lock:
            engine = self._data_path().engine
            if not isinstance(engine, NativeFrontEngine):
                raise UsageError(f"the engine of this disk is {self.engine}, not native")
            if engine.holds_bios:
                raise UsageError("bios are in flight that were submitted from Python: poll them first")
            yield engine.native
            with self._losing_it():
                engine.check_peer()
        self._check_backend()

    @contextlib.contextmanager
    def _losing_it(self) -> Iterator[None]:
        """A backend that cannot be believed is the end of the disk."""
        try:
            yield
        except PeerError as e:
            self._lose(OSError(errno.EIO, f"disk {vdev_name(self.handle)} is disabled for further use: {e}"))

    def _check_backend(self) -> None:
        if self._ring is not None and not self._ring.channel.remote_bound:
            self._lose(OSError(errno.ENODEV, f"the backend of disk {vdev_name(self.handle)} vanished"))

    @property
    def lost(self) -> bool:
        """Whether the disk is lost for good, and everything that was in flight ended."""
        return self._lost is not None

    def _data_path(self) -> DataPath:
        if self._lost is not None:
            raise self._lost
        if self._data is None:
            raise UsageError("the disk is not connected")
        return self._data

    def fileno(self) -> int:
        """A descriptor that is readable when something may have happened, once `poll(0)` returned nothing."""
        with self._lock:
            self._data_path()
            assert self._ring is not None
            return self._ring.channel.fileno()

    def take_event(self) -> None:
        """After the descriptor became readable, before the next `poll`."""
        with self._lock:
            if self._ring is not None:
                self._ring.channel.wait(0)
        self._check_backend()

    def poll(self, timeout_s: float | None = None) -> list[Bio]:
        """Send what was submitted, wait until a bio is done, return all that are; empty after the timeout."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                done, sleep = self._step()
                channel = self._ring.channel if self._ring else None
            if done or not sleep or channel is None:
                return done
            left_s = _LIVENESS_S if deadline_s is None else min(_LIVENESS_S, deadline_s - time.monotonic())
            if left_s <= 0:
                return []
            channel.wait(None if left_s >= _LIVENESS_S else left_s)
            self._check_backend()

    def _step(self) -> tuple[list[Bio], bool]:
        """One round under the lock: (bios that are done, whether there is something to wait for)."""
        if self._finished or self._lost is not None or self._data is None:
            done, self._finished = self._finished, []
            return done, False
        engine = self._data.engine
        assert self._ring is not None
        with self._losing_it():
            while True:
                engine.fill()
                if engine.push():
                    self._ring.channel.notify()
                done = engine.collect()
                if done or not engine.busy:
                    return done, False
                if not engine.look_for() and not engine.must_look_again():
                    return done, True
        return self._step()
