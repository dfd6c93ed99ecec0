"""The thread of a ring, where the system gives none."""

import errno
import threading
from typing import Any

import pytest

from xenblk.blkback.ring_thread import RingThread


class Idle:
    """A server that nobody runs."""

    stopped = False

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
        thread.start()
    assert e.value.errno == errno.EAGAIN
    thread.stop()
    assert server.stopped
