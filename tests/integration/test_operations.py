"""Every operation through both drivers, each with either engine: data, and the counts of indirect requests."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engines.platform import GUEST, LocalPlatform

from xenblk.abi import DOM0, PAGE_SIZE
from xenblk.blkback.connection import Connection
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.connection import DataPath, Ring
from xenblk.blkfront.features import Features
from xenblk.blkif import BlkifOp
from xenblk.counters import Counters
from xenblk.disk import MemoryDisk

SEGMENTS = 20
SIZE = 1 << 20


class CountedPlatform(LocalPlatform):
    """Knows the counters of both ends by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counters] = {}

    def counters(self, name: str) -> Counters:
        self.counts[name] = super().counters(name)
        return self.counts[name]


class Pair:
    """A frontend's engine and a backend that serves it, without xenstore."""

    def __init__(self, front: str, back: str, *, persistent: bool, trusted: bool, offered: bool) -> None:
        self.platform = CountedPlatform()
        self.ring = Ring(self.platform, DOM0)
        keys = FrontendKeys([QueueKeys(self.ring.refs, self.ring.channel.port)], self.ring.abi, persistent)
        parameters = BackendParameters(engine=back, max_indirect_segments=SEGMENTS if offered else 0)
        self.connection = Connection(self.platform, GUEST, "vbd", keys, MemoryDisk(SIZE), parameters)
        self.features = Features(barrier=offered, discard=offered)
        self.data = DataPath(
            self.platform,
            self.ring,
            DOM0,
            51712,
            persistent,
            engine=front,
            max_segments=SEGMENTS if offered else 11,
            trusted=trusted,
            features=self.features,
        )

    def buffer(self, nr_bytes: int) -> memoryview:
        """Memory of the domain."""
        return self.platform.memory.join(self.platform.memory.allocate_run(-(-nr_bytes // PAGE_SIZE)))[:nr_bytes]

    def do(self, op: BlkifOp, offset: int = 0, buffer: memoryview | None = None, nr_bytes: int = 0) -> Bio:
        """One operation, to its end."""
        bio, engine = Bio(op, offset, buffer, nr_bytes=nr_bytes), self.data.engine
        engine.submit(bio)
        while True:
            engine.fill()
            if engine.push():
                self.ring.channel.notify()
            if bio in engine.collect():
                return bio
            if not engine.must_look_again():
                self.ring.channel.wait(1.0)

    def close(self) -> None:
        """End it all; nothing may be mapped or granted."""
        self.connection.close()
        self.data.close()
        self.ring.close()
        assert self.platform.mapper.mapped_pages == 0
        assert self.platform.grant_table.free_count == self.platform.grant_table.nr_entries - 8
        self.platform.close()


@pytest.fixture(params=["native-native", "native-python", "python-native", "python-python"])
def pair_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    """Makes pairs of a frontend's and a backend's engine."""
    front, back = request.param.split("-")
    pairs: list[Pair] = []

    def make(*, persistent: bool = True, trusted: bool = True, offered: bool = True) -> Pair:
        pairs.append(Pair(front, back, persistent=persistent, trusted=trusted, offered=offered))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


@pytest.mark.parametrize(
    "mode",
    [{}, {"persistent": False}, {"persistent": False, "trusted": False}],
    ids=["kept", "mapped", "bounced"],
)
@pytest.mark.parametrize("offered", [True, False], ids=["all offered", "nothing offered"])
def test_data_comes_through_every_operation(pair_of: Any, mode: dict[str, bool], offered: bool) -> None:
    pair = pair_of(offered=offered, **mode)
    data, back = pair.buffer(50 * PAGE_SIZE), pair.buffer(50 * PAGE_SIZE)
    data[:] = os.urandom(len(data))
    assert pair.do(BlkifOp.WRITE, 512, data).error is None
    assert pair.do(BlkifOp.FLUSH_DISKCACHE).error is None
    barrier = pair.do(BlkifOp.WRITE_BARRIER, 0, data[: 13 * PAGE_SIZE])
    discard = pair.do(BlkifOp.DISCARD, 30 * PAGE_SIZE, nr_bytes=2 * PAGE_SIZE)
    assert (barrier.error is None, discard.error is None) == (offered, offered)
    assert pair.do(BlkifOp.READ, 0, back).error is None
    model = bytearray(512) + data
    if offered:
        model[: 13 * PAGE_SIZE] = data[: 13 * PAGE_SIZE]
        model[30 * PAGE_SIZE : 32 * PAGE_SIZE] = bytes(2 * PAGE_SIZE)
    assert back == model[: len(back)]


@pytest.mark.parametrize("mode", [{}, {"trusted": False}], ids=["in place", "bounced"])
def test_counts_of_an_indirect_request_that_is_mapped(pair_of: Any, mode: dict[str, bool]) -> None:
    """20 segments and a page of descriptors: the page, then the data by 11; each unmapped in one go."""
    pair = pair_of(persistent=False, **mode)
    buffer = pair.buffer(SEGMENTS * PAGE_SIZE)
    for _ in range(5):
        assert pair.do(BlkifOp.READ, 0, buffer).error is None
    counts = pair.platform.counts["vbd-0.back"]
    assert (counts.map_pages, counts.unmap_pages) == (5 * 21, 5 * 21)
    assert (counts.map_ops, counts.unmap_ops) == (5 * 3, 5 * 2)


def test_counts_of_indirect_requests_that_are_kept(pair_of: Any) -> None:
    pair = pair_of()
    buffer = pair.buffer(SEGMENTS * PAGE_SIZE)
    for _ in range(5):
        assert pair.do(BlkifOp.READ, 0, buffer).error is None
    counts = pair.platform.counts["vbd-0.back"]
    assert (counts.map_pages, counts.unmap_pages) == (21, 0)
    assert counts.persistent_hits == 4 * 21
    assert pair.data.engine.persistent_gnts_c == 21
