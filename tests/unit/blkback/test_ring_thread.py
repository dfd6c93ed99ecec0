"""The thread of a ring, where the system gives none, and where the guest does not let it go."""

import errno
import threading
from typing import Any

import pytest

from xenblk.blkback.ring_thread import RingThread, start_thread


class Idle:
    """A server that nobody runs."""

    stopped = False

    def start(self) -> None: ...

    def run(self) -> None:
        raise AssertionError("there is no thread to run this")

    def stop(self) -> None:
        self.stopped = True

    def charge(self, _user_id: int, /) -> bool:
        return False

    def close(self) -> None: ...


def test_regression_no_thread_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a connection cannot get is an OSError, which ends that connection only."""

    def refuse(*_args: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    server = Idle()
    thread = RingThread("vbd-0-1-51712-0", server)
    with pytest.raises(OSError, match="no thread for vbd-0-1-51712-0") as e:
        start_thread(thread)
    assert e.value.errno == errno.EAGAIN
    thread.stop()
    assert server.stopped


class Robbed(Idle):
    """A server that sleeps for an event, and whose guest takes the first ones."""

    def __init__(self, nr_taken: int) -> None:
        self._left = threading.Semaphore(0)
        self._nr_taken = nr_taken

    def run(self) -> None:
        self._left.acquire()

    def stop(self) -> None:
        self._nr_taken -= 1
        if self._nr_taken < 0:
            self._left.release()


def test_regression_a_wakeup_that_the_guest_took_comes_again() -> None:
    """Both ends have the same eventfds: a guest that reads the backend's would keep it in its sleep for ever."""
    thread = RingThread("vbd-0-1-51712-0", Robbed(3))
    thread.start()
    thread.stop()
    assert not thread.is_alive()
