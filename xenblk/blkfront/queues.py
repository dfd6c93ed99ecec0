"""The rings of one connection, and how bios are spread over them.

Bios go to the queues in turn. What a queue serves overtakes what another one does, and that is no news to whoever
submits: requests of one ring overtake each other as well. A barrier is the exception. It is an order on its own ring
only, so with several it is held until all that came before it is done, and what comes after it until it is.

A queue can also be driven on its own, in C, by a thread that holds its lock (queue_locks.py).
"""

import collections
from collections.abc import Callable, Iterable

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkfront.queue_locks import QueueLocks
from xenblk.blkif import BlkifOp
from xenblk.errors import PeerError

Engine = NativeFrontEngine | FrontEngine


class Queues:
    """Rings, from Initialised on; `start` gives each an engine, at Connected.

    One thread at a time, but for those that hold one of `locks`: each has the engine of that queue.
    """

    def __init__(self, make_ring: Callable[[], Ring], number: int) -> None:
        self.rings: list[Ring] = []
        self.locks = QueueLocks()
        self._paths: list[DataPath] = []
        self._held: collections.deque[Bio] = collections.deque()
        self._turn = 0
        self._behind_barrier = False
        self._order: dict[Bio, None] = {}
        try:
            for _ in range(number):
                self.rings.append(make_ring())
        except BaseException:
            self.close()
            raise

    def start(self, make_path: Callable[[int, Ring], DataPath]) -> None:
        """Make an engine for each ring."""
        for number, ring in enumerate(self.rings):
            self.locks.add(ring.channel.wake)
            self._paths.append(make_path(number, ring))

    @property
    def engines(self) -> list[Engine]:
        """An engine for each ring; none before `start`."""
        return [path.engine for path in self._paths]

    @property
    def remote_bound(self) -> bool:
        """Whether the backend holds the other end of every channel."""
        return all(ring.channel.remote_bound for ring in self.rings)

    @property
    def remote_unbound(self) -> bool:
        """Whether the backend holds none of them: then it maps nothing, either."""
        return not any(ring.channel.remote_bound for ring in self.rings)

    @property
    def busy(self) -> bool:
        """Whether any bio is not done."""
        with self.locks:
            return bool(self._held) or any(engine.busy for engine in self.engines)

    # Bios

    def submit(self, bios: Iterable[Bio]) -> None:
        """Queue them; `step` sends them."""
        with self.locks:
            self._submit(bios)

    def _submit(self, bios: Iterable[Bio]) -> None:
        if len(self._paths) == 1:
            engine = self._paths[0].engine
            for bio in bios:
                engine.submit(bio)
            return
        for bio in bios:
            self._order[bio] = None
            self._held.append(bio)
        self._release()

    def _release(self) -> None:
        """Give what is held to the engines, as far as barriers let it go."""
        while self._held:
            barrier = self._held[0].op == BlkifOp.WRITE_BARRIER
            under_way = len(self._order) - len(self._held)
            if under_way and (barrier or self._behind_barrier):
                return
            self._behind_barrier = barrier
            self._paths[self._turn].engine.submit(self._held.popleft())
            self._turn = (self._turn + 1) % len(self._paths)

    def send(self) -> None:
        """Put what was submitted on the rings, as far as there is room, and notify the backend of it."""
        with self.locks:
            self._send()

    def _send(self) -> None:
        for ring, path in zip(self.rings, self._paths, strict=True):
            path.engine.fill()
            if path.engine.push():
                ring.channel.notify()

    def step(self) -> tuple[list[Bio], bool]:
        """Send and collect: (bios that are done, whether there is something to sleep for).

        PeerError if the backend cannot be believed; what was done before that was returned by an earlier call.
        """
        with self.locks:
            return self._step()

    def _step(self) -> tuple[list[Bio], bool]:
        while True:
            self._send()
            done = self._collect()
            busy = [engine for engine in self.engines if engine.busy]
            if done or not busy:
                return done, False
            # To look at one ring while another one's response is there would cost time.
            found = len(busy) == 1 and busy[0].look_for()
            # Each must ask for an event.
            if not found and not sum(engine.must_look_again() for engine in busy):
                return done, True

    def _collect(self) -> list[Bio]:
        done: list[Bio] = []
        for engine in self.engines:
            try:
                done += engine.collect()
            except PeerError:
                if not done:
                    raise
                break  # it will say so again
        if self._order:
            for bio in done:
                del self._order[bio]
            self._release()
        return done

    def fail_all(self, error: OSError) -> list[Bio]:
        """Give up: every bio that is not done ends with `error`."""
        with self.locks:
            failed = [bio for engine in self.engines for bio in engine.fail_all(error)]
        for bio in self._held:
            bio.error, bio.pieces_left = error, 0
        failed += self._held
        self._held.clear()
        self._order.clear()
        return failed

    def take_unfinished(self) -> list[Bio]:
        """Every bio that is not done, in the order of submission, as good as new; the engines have none any more."""
        with self.locks:
            bios = [bio for engine in self.engines for bio in engine.take_unfinished()]
        if len(self._paths) > 1:
            bios = list(self._order)
        self._held.clear()
        self._order.clear()
        return bios

    def reclaim(self, now_ns: int) -> None:
        """Follow the backend's unmapping of idle pages, on queues that nobody drives on its own: he does it himself."""
        for queue in range(len(self._paths)):
            if self.locks.acquire_idle(queue):
                try:
                    self.reclaim_one(queue, now_ns)
                finally:
                    self.locks.release(queue)

    def reclaim_one(self, queue: int, now_ns: int) -> None:
        """As `reclaim`, for whoever holds the queue's lock."""
        self._paths[queue].reclaim(now_ns)

    # Sleeping

    def wait(self, timeout_s: float | None) -> None:
        """Sleep for an event of the only ring, and take it; not at all if it was closed meanwhile."""
        for ring in self.rings[:1]:
            ring.channel.wait(timeout_s)

    def take_events(self) -> None:
        """Take all events that are there."""
        for ring in self.rings:
            ring.channel.wait(0)

    def wake(self) -> None:
        """Let whoever sleeps for a ring return, from any thread."""
        for ring in self.rings:
            ring.channel.wake()

    def close(self) -> None:
        """End all grants and give the pages back, but for those that the backend still maps."""
        with self.locks:
            while self._paths:
                self._paths.pop().close()
        while self.rings:
            self.rings.pop().close()
