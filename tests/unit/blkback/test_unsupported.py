"""A connection tells its device of a flush that the disk has no way to do, with either engine."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from engines.platform import GUEST, LocalPlatform

from xenblk.abi import DOM0
from xenblk.blkback.connection import Connection
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys
from xenblk.blkback.native_server import NativeServer
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkfront.connection import Ring
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifStatus
from xenblk.disk import MemoryDisk
from xenblk.object_disk import ObjectDisk

PATIENCE_S = 20.0
FLUSHES = [BlkifOp.FLUSH_DISKCACHE, BlkifOp.WRITE_BARRIER]


class NoFlush(MemoryDisk):
    """Memory that cannot be flushed."""

    def flush(self) -> None:
        raise OSError(errno.EOPNOTSUPP, "no flush")


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    platform = LocalPlatform()
    yield platform
    platform.close()


@pytest.mark.parametrize("operation", FLUSHES)
def test_a_connection_tells_of_a_missing_flush(platform: LocalPlatform, operation: int) -> None:
    told: list[int] = []
    ring = Ring(platform, DOM0)
    keys = FrontendKeys([QueueKeys(ring.refs, ring.channel.port)], ring.abi, persistent=True)
    disk = ObjectDisk(NoFlush(1 << 16))
    connection = Connection(
        platform, GUEST, "vbd", keys, disk, BackendParameters(engine="python"), unsupported=told.append
    )
    ring.sring.put(ring.abi.pack_request(BlkifRequest(operation, 0, 7, 0, 0, ())))
    ring.sring.push()
    ring.channel.notify()
    slot = None
    while slot is None and ring.channel.wait(PATIENCE_S):
        slot = ring.sring.consume()
    assert slot is not None
    assert ring.abi.parse_response(slot).status == BlkifStatus.EOPNOTSUPP
    assert told == [operation]
    connection.close()
    ring.close()


@pytest.mark.parametrize("operations", [[], FLUSHES[:1], FLUSHES[1:], FLUSHES])
def test_the_native_engine_tells_what_it_found(monkeypatch: pytest.MonkeyPatch, operations: list[int]) -> None:
    """The C side of this is in tests/native/test_back_operations.c."""
    told: list[int] = []
    server: Any = NativeServer.__new__(NativeServer)
    server._native, server._unsupported = None, told.append
    server._tell_live = lambda: None
    monkeypatch.setattr(
        "xenblk.blkback.native_server.lib",
        type("Lib", (), {"xb_back_unsupported": lambda _native: sum(1 << operation for operation in operations)}),
    )
    server._tell()
    assert sorted(told) == sorted(operations)
