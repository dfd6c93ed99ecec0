"""What nobody foresaw goes wrong in one device: that one ends, we get a traceback, and the others are served."""

import functools
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

import xenblk
from xenblk.blkback.connection import Connection
from xenblk.blkback.device import Vbd
from xenblk.errors import HostError, XenstoreError
from xenblk.xenstore.client import Xenstore

ERRORS = "/local/domain/0/error/backend/vbd"
PATIENCE_S = 20.0


class Surprise(Exception):  # noqa: N818
    """Of no kind that anybody expects."""


def then_fail(call: Any) -> Any:
    @functools.wraps(call)
    def failing(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        raise Surprise("it cannot be")

    return failing


@pytest.fixture
def host(caplog: pytest.LogCaptureFixture) -> Iterator[xenblk.Host]:
    """With a disk that must work afterwards, and a bug that must have been reported."""
    with xenblk.Host() as host, host.attach(xenblk.MemoryDisk(4096)) as neighbour:
        yield host
        neighbour.pwrite(b"n" * 512, 0)
        assert neighbour.pread(512, 0) == b"n" * 512
        with host.attach(xenblk.MemoryDisk(4096)) as later:
            later.flush()
    reports = [record for record in caplog.get_records("call") if record.levelno == logging.ERROR]
    assert reports
    assert all("a bug of " in record.message and record.exc_info for record in reports)


def errors(host: xenblk.Host) -> list[str]:
    """What the backend recorded; it does so in its own time."""
    store, deadline_s = host._store, time.monotonic() + PATIENCE_S
    while not store.exists(ERRORS) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    return [
        store.read(f"{ERRORS}/{domid}/{handle}/error")
        for domid in store.directory(ERRORS)
        for handle in store.directory(f"{ERRORS}/{domid}")
    ]


def test_regression_a_disk_that_cannot_even_say_its_size(host: xenblk.Host) -> None:
    class Odd:
        @property
        def size(self) -> int:
            raise Surprise("it cannot be")

        def pread(self) -> None: ...

        pwrite = flush = pread

    with pytest.raises(HostError, match="it cannot be"):
        host.attach(Odd())


def test_regression_a_bug_while_a_device_connects(host: xenblk.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Vbd, "_publish", then_fail(Vbd._publish))
        with pytest.raises(OSError, match="went to Closing"):
            host.attach(xenblk.MemoryDisk(4096))
    assert errors(host) == ["5 a bug of the backend: Surprise: it cannot be"]


def test_regression_a_bug_while_a_device_is_closed(host: xenblk.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = host.attach(xenblk.MemoryDisk(4096))
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "close", then_fail(Connection.close))
        disk.close()
    assert errors(host) == ["5 a bug of the backend: Surprise: it cannot be"]


def test_regression_a_bug_when_a_device_is_found(host: xenblk.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Vbd, "__init__", then_fail(Vbd.__init__))
        patch.setattr("xenblk.library.attach", functools.partial(xenblk.toolstack.attach, timeout_s=0.5))
        with pytest.raises(HostError):
            host.attach(xenblk.MemoryDisk(4096))


def test_regression_devices_that_go_while_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    left, directory = [2], Xenstore.directory

    def racing(store: Xenstore, path: str) -> list[str]:
        if left[0] and path.endswith("/backend/vbd"):
            left[0] -= 1
            raise XenstoreError("ENOENT", f"directory {path}")
        return directory(store, path)

    monkeypatch.setattr(Xenstore, "directory", racing)
    with xenblk.Host() as host, host.attach(xenblk.MemoryDisk(4096)) as disk:
        disk.flush()
    assert left == [0]
