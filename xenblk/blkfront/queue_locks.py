"""A lock for each queue of a disk, so that several threads can drive one queue each in C, at the same time.

Whoever acquires one holds the device's lock, and need not keep it; nobody acquires the device's lock while he holds one
of these. So no two threads ever wait for each other.
"""

import threading
from collections.abc import Callable
from typing import Final

_PATIENCE_S: Final = 0.01


class QueueLocks:
    """`with locks:` holds the locks of all queues."""

    def __init__(self) -> None:
        self._locks: list[threading.Lock] = []
        self._wakes: list[Callable[[], None]] = []

    def add(self, wake: Callable[[], None]) -> None:
        """One more queue. `wake` wakes whoever sleeps in C for its ring: only then can he see that his time is up."""
        self._locks.append(threading.Lock())
        self._wakes.append(wake)

    def acquire(self, queue: int) -> None:
        """Wait until nobody else drives this queue."""
        while not self._locks[queue].acquire(timeout=_PATIENCE_S):
            self._wakes[queue]()

    def acquire_idle(self, queue: int) -> bool:
        """Take the lock if nobody drives this queue; whether it was taken."""
        return self._locks[queue].acquire(blocking=False)

    def release(self, queue: int) -> None:
        """Let others drive this queue."""
        self._locks[queue].release()

    def __enter__(self) -> None:
        nr_held = 0
        try:
            for queue in range(len(self._locks)):
                self.acquire(queue)
                nr_held += 1
        except BaseException:
            self._release(nr_held)
            raise

    def __exit__(self, *_exc_info: object) -> None:
        self._release(len(self._locks))

    def _release(self, count: int) -> None:
        for lock in self._locks[:count]:
            lock.release()
