"""A disk written in Python: what it is asked for each operation, and what its refusals become."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from engines.bench import ENGINES, Bench
from engines.sides import DISK_SECTORS, PythonTwin

from xenblk.abi import GrantRef
from xenblk.blkif import X86_64, BlkifOp, BlkifSegment, BlkifStatus
from xenblk.object_disk import ObjectDisk

OKAY, ERROR, EOPNOTSUPP = BlkifStatus.OKAY, BlkifStatus.ERROR, BlkifStatus.EOPNOTSUPP
READ, WRITE, FLUSH, BARRIER = BlkifOp.READ, BlkifOp.WRITE, BlkifOp.FLUSH_DISKCACHE, BlkifOp.WRITE_BARRIER
WHOLE = BlkifSegment(GrantRef(8), 0, 7)


class Recorder:
    """A disk that remembers what it was asked, and refuses what it is told to."""

    size = DISK_SECTORS * 512

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.refusals: dict[str, Exception] = {}

    def _ask(self, name: str, *arguments: object) -> None:
        self.asked.append((name, *arguments))
        if name in self.refusals:
            raise self.refusals[name]

    def pread(self, count: int, offset: int) -> bytes:
        self._ask("pread", count, offset)
        return bytes(count)

    def pwrite(self, data: bytes, offset: int) -> None:
        self._ask("pwrite", len(data), offset)

    def flush(self) -> None:
        self._ask("flush")

    def discard(self, offset: int, count: int) -> None:
        self._ask("discard", offset, count)


class Simple(Recorder):
    """One without discard."""

    discard = None  # type: ignore[assignment]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bench(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from _bench(recorder, monkeypatch)


def _bench(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    class ObjectTwin(PythonTwin):
        def _open_disk(self, direct: bool) -> Any:
            return ObjectDisk(recorder)

    monkeypatch.setitem(ENGINES, "object", ObjectTwin)
    bench = Bench(X86_64, "object")
    yield bench
    bench.close()


def test_what_each_operation_asks(bench: Bench, recorder: Recorder) -> None:
    assert bench.status(READ, WHOLE, sector=8) == OKAY
    assert bench.status(BARRIER, WHOLE, sector=16) == OKAY
    assert bench.status(BARRIER) == OKAY
    assert bench.discard(3, 5, flag=1) == OKAY
    assert bench.discard(3, 0) == OKAY
    assert bench.indirect(WRITE, *[WHOLE] * 12, sector=24) == OKAY
    assert recorder.asked == [
        ("pread", 4096, 4096),
        ("flush",),
        ("pwrite", 4096, 8192),
        ("flush",),
        ("discard", 3 * 512, 5 * 512),
        ("pwrite", 12 * 4096, 24 * 512),
    ]


@pytest.mark.parametrize("operation", [FLUSH, BARRIER])
def test_a_disk_that_has_no_flush(bench: Bench, recorder: Recorder, operation: int) -> None:
    recorder.refusals["flush"] = OSError(errno.EOPNOTSUPP, "no flush")
    assert bench.status(operation) == EOPNOTSUPP
    assert bench.status(operation, WHOLE) == EOPNOTSUPP
    assert bench.twin.unsupported == [operation, operation]
    assert recorder.asked == [("flush",), ("flush",)], "its data is not written"
    assert (bench.count("f_req"), bench.count("wr_sect"), bench.count("map_ops")) == (2, 0, 0)


@pytest.mark.parametrize("refusal", [OSError(errno.EIO, "broken"), ValueError("a bug")])
def test_a_flush_or_discard_that_fails(bench: Bench, recorder: Recorder, refusal: Exception) -> None:
    recorder.refusals = {"flush": refusal, "discard": refusal}
    assert [bench.status(FLUSH), bench.status(BARRIER), bench.discard(0, 8)] == [ERROR] * 3
    assert bench.twin.unsupported == []


@pytest.mark.parametrize("operation", [READ, WRITE])
def test_data_is_never_unsupported(bench: Bench, recorder: Recorder, operation: int) -> None:
    refusal = OSError(errno.EOPNOTSUPP, "not today")
    recorder.refusals = {"pread": refusal, "pwrite": refusal}
    assert bench.status(operation, WHOLE) == ERROR
    assert bench.indirect(operation, WHOLE) == ERROR
    assert bench.count("rd_sect" if operation == READ else "wr_sect") == 16, "what the disk was asked for"


def test_a_disk_that_refuses_to_discard(bench: Bench, recorder: Recorder) -> None:
    recorder.refusals["discard"] = OSError(errno.EOPNOTSUPP, "not today")
    assert bench.discard(0, 8) == EOPNOTSUPP
    assert bench.twin.unsupported == [], "there is no flush missing"


def test_a_disk_without_discard(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Simple()
    for bench in _bench(recorder, monkeypatch):
        assert bench.disk.discard_granularity == 0
        assert bench.discard(0, 8) == EOPNOTSUPP
        assert bench.discard(1 << 60, 8) == ERROR, "the range before whether there is any discard"
        assert bench.count("ds_req") == 1
        assert recorder.asked == []
