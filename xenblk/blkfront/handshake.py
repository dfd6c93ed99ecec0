"""The xenbus side of a frontend: it follows its backend by the table in xenbus.py, in a *xenwatch* thread of its own.

What is lost stays lost, with one exception: a frontend that may recover outlives its backend. It keeps what was in
flight, starts over with the next backend that serves the device, whatever that offers, and submits all of it again in
the old order. So a bio may be carried out twice, but is done once; a write that was answered is never written again.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.blkfront.features import Features
from xenblk.blkfront.frontend_nodes import BackendProperties, FrontendNodes
from xenblk.blkfront.options import FrontendOptions
from xenblk.blkfront.queues import Queues
from xenblk.blkfront.waiting import Waiter
from xenblk.blkif import ABIS
from xenblk.errors import PeerGoneError, XenblkError
from xenblk.platform import Platform
from xenblk.vdev import vdev_name
from xenblk.xenbus import FrontendAction, XenbusState, frontend_action

_log: Final = logging.getLogger("xenblk.blkfront")

_TOKEN: Final = "backend"
LIVENESS_S: Final = 0.25
"""How long anybody sleeps for a response, at most, before he looks whether there still is a backend."""
_PARTING_S: Final = 1.0
"""How long a backend that let go of the event channel has to write that it did, before it counts as dead."""
_REFUSALS_MAX: Final = 3
"""How often in a row a frontend that recovers offers itself to backends that close."""
_RESET_S: Final = 5.0
"""How long a backend has for each state on the way back to InitWait."""


class Handshake:
    """One disk's connection to whichever backend serves it. `lock` is held by whoever touches anything in here,
    or the lock of one of the queues by whoever drives that.

    `queues` are there from Initialised to the end; their engines, and so `connected`, while requests may flow.
    """

    def __init__(self, platform: Platform, handle: int, options: FrontendOptions) -> None:
        self.nodes = FrontendNodes(platform, handle)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.queues: Queues | None = None
        self.connected = False
        self.lost: OSError | None = None
        self.finished: list[Bio] = []
        self.properties: BackendProperties | None = None
        self.persistent = False
        self.unfinished: list[Bio] = []
        self.waiter = Waiter() if options.nr_queues > 1 or options.recover else None
        self._platform = platform
        self._handle = handle
        self._options = options
        self._path = self.nodes.path
        self._closing = False
        self._stale: XenbusState | None = None
        self._was_connected = False
        self._refusals = 0
        self._xenwatch = threading.Thread(target=self._watch_backend, name=f"xenwatch-{handle}", daemon=True)

    # Connecting and closing

    def connect(self, timeout_s: float) -> None:
        """Shake hands; returns when requests can flow. OSError if the backend refuses or takes longer."""
        self._reset(self.nodes.shown_state)
        self.nodes.store.watch(self.nodes.backend_state_path, _TOKEN, one_pending=True)
        self._xenwatch.start()
        with self.changed:
            self.changed.wait_for(lambda: self.connected or self.lost is not None, timeout_s)
            if self.lost is not None:
                raise self.lost
            if not self.connected:
                raise OSError(errno.ETIMEDOUT, self._why_not_connected(timeout_s))

    def _reset(self, shown: XenbusState) -> None:
        """Start over where a predecessor left the device in use (xenbus_reset_frontend)."""
        if self._leave(shown):
            self._forget_backend()
        self.nodes.switch_state(XenbusState.INITIALISING)

    def _leave(self, shown: XenbusState) -> bool:
        """Have the backend close; False if it knows of nothing to close."""
        if shown not in (XenbusState.INITIALISED, XenbusState.CONNECTED, XenbusState.CLOSING):
            return False
        self.nodes.switch_state(XenbusState.CLOSING)
        self._wait_for_backend(XenbusState.CLOSING, _RESET_S)
        self.nodes.switch_state(XenbusState.CLOSED)
        self._wait_for_backend(XenbusState.CLOSED, _RESET_S)
        return True

    def _forget_backend(self) -> None:
        """What a backend wrote last that is not on its way to InitWait is void: it may be dead."""
        state = self.nodes.backend_state
        self._stale = state if state in (XenbusState.CONNECTED, XenbusState.CLOSING) else None

    def _why_not_connected(self, timeout_s: float) -> str:
        return (
            f"the backend at {self.nodes.backend_path} did not connect within {timeout_s:g} s and is in state "
            f"{self.nodes.backend_state.label}: is a backend running?"
        )

    def close(self, timeout_s: float) -> None:
        """Leave in good order: wait until the backend unmapped everything, then give all pages and grants back."""
        with self.lock:
            self._closing = True
        try:
            self._say_goodbye(timeout_s)
        except XenblkError as e:
            _log.debug("%s: %s", self._path, e)
        self.nodes.store.close()
        if self._xenwatch.is_alive():
            self._xenwatch.join()
        self.lose(OSError(errno.ENODEV, f"disk {vdev_name(self._handle)} was closed"))
        with self.lock:
            self._drop_queues()
            self.waiter = None

    def _say_goodbye(self, timeout_s: float) -> None:
        if self.nodes.state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
            self.nodes.switch_state(XenbusState.CLOSING)
            self._wait_for_backend(XenbusState.CLOSING, timeout_s)
        self.nodes.switch_state(XenbusState.CLOSED)
        self._wait_for_backend(XenbusState.CLOSED, timeout_s)

    def _wait_for_backend(self, at_least: XenbusState, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (now_s := time.monotonic()) < deadline_s:
            state = self.nodes.backend_state
            if state >= at_least or state == XenbusState.UNKNOWN:
                return
            if self._backend_is_gone():
                deadline_s = min(deadline_s, now_s + _PARTING_S)
            time.sleep(0.002)
        if not self._backend_is_gone():
            _log.warning("%s: the backend is not %s after %g s", self._path, at_least.label, timeout_s)

    def _backend_is_gone(self) -> bool:
        return self.queues is not None and self.connected and self.queues.remote_unbound

    def _drop_queues(self) -> None:
        self.connected = False
        if self.queues is not None:
            if self.waiter is not None:
                self.waiter.remove([ring.channel for ring in self.queues.rings])
            self.queues.close()
            self.queues = None

    # Following the backend

    def _watch_backend(self) -> None:
        try:
            while not self._closing:
                event = self.nodes.store.next_event(LIVENESS_S)
                if event is not None and not self._closing:
                    self._backend_changed()
                with self.lock:
                    if self._options.recover:
                        self.check_backend()
                    if self.queues is not None:
                        self.queues.reclaim(time.monotonic_ns())
                    # Who sleeps for a response sleeps without a timer, which would cost as much as the rest of it.
                    self._wake()
        except PeerGoneError as e:
            if not self._closing:
                self.lose(OSError(errno.ENODEV, str(e)))
        except (XenblkError, OSError) as e:
            self.lose(e if isinstance(e, OSError) else OSError(errno.EIO, str(e)))

    def _wake(self) -> None:
        if self.waiter is not None:
            self.waiter.wake()
        if self.queues is not None:
            self.queues.wake()

    def _backend_changed(self) -> None:
        with self.lock:
            # Read in here: what was read before somebody else did a step is no news afterwards.
            backend = self.nodes.backend_state
            if backend is self._stale or self.lost is not None or self._closing:
                return
            self._stale = None
            action = frontend_action(self.nodes.state, backend)
            _log.debug("%s: backend %s, own %s: %s", self._path, backend.name, self.nodes.state.name, action.name)
            if action in (FrontendAction.SETUP, FrontendAction.SETUP_AND_CONNECT):
                self._set_up()
            if action in (FrontendAction.CONNECT, FrontendAction.SETUP_AND_CONNECT):
                self._connected()
            elif action is FrontendAction.RESIZE:
                self._resize()
            elif action is FrontendAction.CLOSE:
                self._backend_closes(backend)
            elif action is FrontendAction.LOST or (self._was_connected and backend is XenbusState.UNKNOWN):
                self.lose(OSError(errno.ENODEV, f"the backend's nodes at {self.nodes.backend_path} were removed"))
            elif self._options.recover:
                self.check_backend()  # there may be another one already

    def _backend_closes(self, backend: XenbusState) -> None:
        why = self.nodes.why_closed(backend)
        if self._may_recover and self.nodes.online:
            self._refusals += not self.connected
            self._keep_unfinished()
            self.nodes.switch_state(XenbusState.CLOSED)
            self._start_over(why, _RESET_S)
        else:
            self.lose(OSError(errno.ENODEV, why))
            self.nodes.switch_state(XenbusState.CLOSED)

    def _set_up(self) -> None:
        nodes, options = self.nodes, self._options
        self._drop_queues()
        order = min(options.ring_page_order, nodes.max_ring_page_order)
        number = min(options.nr_queues, max(1, nodes.read_uint("multi-queue-max-queues", 1)))
        abi = ABIS[options.protocol]
        queues = self.queues = Queues(lambda: Ring(self._platform, nodes.backend_id, abi, order), number)
        if self.waiter is not None:
            self.waiter.add([ring.channel for ring in queues.rings])
        nodes.write_keys(queues.rings, options.feature_persistent)
        nodes.switch_state(XenbusState.INITIALISED)

    def _connected(self) -> None:
        assert self.queues is not None
        before, properties = self.properties, self.nodes.read_properties()
        self.properties = properties
        self.persistent = self._options.feature_persistent and properties.persistent
        self.queues.start(self._path_maker(properties))
        self.connected, self._was_connected, self._refusals = True, True, 0
        self.nodes.switch_state(XenbusState.CONNECTED)
        if self.unfinished:
            _log.info("%s: %d bios are submitted again", self._path, len(self.unfinished))
            self.queues.submit(self.unfinished)
            self.unfinished = []
            self.queues.send()
        self.changed.notify_all()
        self._wake()
        if before is not None and before.size != properties.size:
            self._tell_size(properties.size)

    def _path_maker(self, properties: BackendProperties) -> Callable[[int, Ring], DataPath]:
        options = self._options
        features = Features(
            flush_cache=properties.flush_cache,
            barrier=properties.barrier,
            discard=properties.discard,
            discard_secure=properties.discard_secure,
        )
        trusted = options.trusted and self.nodes.trusted

        def make(number: int, ring: Ring) -> DataPath:
            return DataPath(
                self._platform,
                ring,
                self.nodes.backend_id,
                self._handle,
                self.persistent,
                engine=options.engine,
                poll_us=options.poll_us,
                max_segments=max(
                    BLKIF_MAX_SEGMENTS_PER_REQUEST, min(options.max_indirect_segments, properties.max_segments)
                ),
                trusted=trusted,
                sector_size=properties.sector_size,
                features=features,
                queue=number,
            )

        return make

    def _resize(self) -> None:
        assert self.properties is not None
        size, before = self.nodes.size, self.properties.size
        if size != before:
            self.properties = self.properties.resized(size)
            self._tell_size(size)

    def _tell_size(self, size: int) -> None:
        if self._options.on_resize is not None:
            try:
                self._options.on_resize(size)
            except Exception:
                _log.exception("%s: a callback of the user's, on_resize, failed", self._path)

    # Losing the backend

    def resume(self) -> None:
        """The domain was suspended and runs again, perhaps elsewhere: start over with the backend that is there now."""
        with self.lock:
            if self.lost is not None:
                raise self.lost
            self._keep_unfinished()
            self._leave(self.nodes.state)
            self._drop_queues()
            self._find_backend()
            if self.nodes.backend_state is XenbusState.CLOSING:
                # It saw us leave the other one.
                self._wait_for_backend(XenbusState.CLOSED, _RESET_S)
            self._forget_backend()
            self.nodes.switch_state(XenbusState.INITIALISING)
            self._backend_changed()

    def _find_backend(self) -> None:
        nodes, before = self.nodes, self.nodes.backend_state_path
        nodes.find_backend()
        if nodes.backend_state_path != before:
            nodes.store.unwatch(before, _TOKEN)
            nodes.store.watch(nodes.backend_state_path, _TOKEN, one_pending=True)
            self._stale = None

    def wait_for_queues(self, timeout_s: float) -> None:
        """Sleep until there are rings again, or the disk is lost."""
        with self.changed:
            self.changed.wait_for(lambda: self.queues is not None or self.lost is not None, timeout_s)

    def check_backend(self) -> None:
        """See whether there still is a backend, for whoever is about to wait for it."""
        with self.lock:
            if self.connected and self.queues is not None and not self.queues.remote_bound:
                self.backend_vanished()

    @property
    def _may_recover(self) -> bool:
        return self._options.recover and self._was_connected and not self._closing and self._refusals < _REFUSALS_MAX

    def backend_vanished(self) -> None:
        """The backend ended without a word: the disk is lost, or waits for another backend."""
        why = f"the backend of disk {vdev_name(self._handle)} vanished"
        if not self._may_recover:
            self.lose(OSError(errno.ENODEV, why))
        elif threading.current_thread() is self._xenwatch:
            self._keep_unfinished()
            self._start_over(why, _PARTING_S)

    def _keep_unfinished(self) -> None:
        if self.connected and self.queues is not None:
            self.unfinished = self.queues.take_unfinished() + self.unfinished
        self.connected = False

    def _start_over(self, why: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not self._has_let_go() and time.monotonic() < deadline_s:
            time.sleep(0.002)
        self._drop_queues()
        _log.info("%s: %s; %d bios wait for the next", self._path, why, len(self.unfinished))
        self._forget_backend()
        self.nodes.switch_state(XenbusState.INITIALISING)
        self._backend_changed()

    def _has_let_go(self) -> bool:
        """Whether the backend is done with us: it is dead, or on its way to InitWait."""
        unbound = self.queues is None or self.queues.remote_unbound
        closed = self.nodes.state is not XenbusState.CLOSED or self.nodes.backend_state is not XenbusState.CLOSING
        return unbound and closed

    def lose(self, error: OSError) -> None:
        """The device is no more: everything in flight ends with `error`."""
        with self.changed:
            if self.lost is None:
                self.lost = error
                for bio in self.unfinished:
                    bio.error, bio.pieces_left = error, 0
                self.finished += self.unfinished
                self.unfinished = []
                if self.queues is not None:
                    self.finished += self.queues.fail_all(error)
            self.changed.notify_all()
            self._wake()
