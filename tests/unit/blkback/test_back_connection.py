"""A connection that does not get all it needs: it is refused, and leaves nothing behind."""

import errno
import threading
from collections.abc import Iterator

import pytest
from engines.platform import GUEST, LocalPlatform

from xenblk.abi import DOM0
from xenblk.blkback.connection import Connection
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkfront.connection import Ring
from xenblk.disk import MemoryDisk


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    platform = LocalPlatform()
    yield platform
    platform.close()


@pytest.mark.parametrize(("engine", "nr_threads"), [("native", 2), ("python", 1)])
def test_regression_a_connection_has_all_its_threads_or_none(
    platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch, engine: str, nr_threads: int
) -> None:
    start, spare, before = threading.Thread.start, [0], set(threading.enumerate())

    def start_if_spare(thread: threading.Thread) -> None:
        if spare[0] == 0:
            raise RuntimeError("can't start new thread")
        spare[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_spare)
    ring = Ring(platform, DOM0)
    keys = FrontendKeys([QueueKeys(ring.refs, ring.channel.port)], ring.abi, persistent=True)
    arguments = platform, GUEST, "vbd", keys, MemoryDisk(1 << 16), BackendParameters(engine=engine)
    for too_few in range(nr_threads):
        spare[0] = too_few
        with pytest.raises(OSError, match="no thread for ") as e:
            Connection(*arguments)
        assert e.value.errno == errno.EAGAIN
        assert set(threading.enumerate()) == before
        assert platform.mapper.mapped_pages == 0
        assert not ring.channel.remote_bound
    spare[0] = nr_threads
    connection = Connection(*arguments)
    assert (spare[0], ring.channel.remote_bound) == (0, True)
    connection.close()
    assert set(threading.enumerate()) == before
    ring.close()
