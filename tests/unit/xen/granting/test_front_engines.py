"""Both of the frontend's engines on memory that real Xen grants; the backend is played by hand."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.features import Features
from xenblk.blkfront.lending import Lender
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import X86_64, BlkifOp, BlkifResponse, IndirectRequest, parse_segments
from xenblk.counters import Counters
from xenblk.errors import GrantError
from xenblk.grants import GrantPool
from xenblk.ring import BackRing, FrontRing

BACKEND = Domid(0)
HANDLE = 51712
NR_PAGES = 384


class Disk:
    """An engine and a backend that serves `disk`, and looks at the granted pages through the device."""

    def __init__(self, kind: str, domain: Any, *, persistent: bool, max_segments: int = 11) -> None:
        self.domain = domain
        self.disk = bytearray(range(256)) * 4096
        page = domain.memory.allocate_page().view
        self.front, self.back = FrontRing(page, X86_64.entry_size), BackRing(page, X86_64.entry_size)
        counters, features, self.pool = Counters(), Features(), None
        table, memory = domain.table, domain.memory
        self.engine: Any
        if kind == "native":
            self.engine = NativeFrontEngine(
                self.front,
                X86_64,
                HANDLE,
                counters,
                table,
                memory,
                BACKEND,
                persistent,
                nr_pages=NR_PAGES,
                max_segments=max_segments,
                features=features,
            )
        else:
            self.pool = GrantPool(table, memory, BACKEND, NR_PAGES)
            lender = Lender(table, memory, self.pool, BACKEND, persistent, max_segments=max_segments)
            self.engine = FrontEngine(self.front, X86_64, HANDLE, lender, counters, features)

    def run(self, op: BlkifOp, offset: int, buffer: Any) -> tuple[list[int], int]:
        """Do one bio; the references that it was lent by, and how many requests it took."""
        bio = Bio(op, offset, memoryview(buffer).cast("B"))
        self.engine.submit(bio)
        refs, nr_requests, done = [], 0, []
        while not done:
            self.engine.fill()
            self.engine.push()
            while (slot := self.back.consume()) is not None:
                refs += self._serve(X86_64.parse_request(slot))
                nr_requests += 1
            self.back.push()
            done = self.engine.collect()
        assert done == [bio]
        assert bio.error is None
        return refs, nr_requests

    def _serve(self, request: Any) -> list[int]:
        page = self.domain.device.page
        op, segments = request.operation, getattr(request, "segments", ())
        if isinstance(request, IndirectRequest):
            op = request.indirect_op
            segments = parse_segments(bytes(page(request.indirect_grefs[0])))[: request.nr_segments]
        at = request.sector_number * SECTOR_SIZE
        for segment in segments:
            part = page(segment.gref)[segment.first_sect * SECTOR_SIZE : (segment.last_sect + 1) * SECTOR_SIZE]
            if op == BlkifOp.READ:
                part[:] = self.disk[at : at + part.nbytes]
            else:
                self.disk[at : at + part.nbytes] = part
            at += part.nbytes
        self.back.put(X86_64.pack_response(BlkifResponse(request.id, op, 0)))
        return [segment.gref for segment in segments]

    def close(self) -> None:
        self.engine.close()
        if self.pool is not None:
            self.pool.close()


@pytest.fixture(params=["native", "python"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "map per request"])
def test_data_comes_through_and_pages_are_granted_once(
    domain_of: Callable[..., Any], kind: str, persistent: bool
) -> None:
    domain = domain_of()
    disk = Disk(kind, domain, persistent=persistent)
    seen: set[int] = set()
    for turn in range(20):
        data = bytes([turn, 255 - turn]) * (PAGE_SIZE * 3 // 2)
        refs, _ = disk.run(BlkifOp.WRITE, turn * 4 * PAGE_SIZE, bytearray(data))
        seen |= set(refs)
        assert disk.disk[turn * 4 * PAGE_SIZE :][: len(data)] == data
        back = bytearray(len(data))
        seen |= set(disk.run(BlkifOp.READ, turn * 4 * PAGE_SIZE, back)[0])
        assert back == data
    assert len(seen) == 3, "the pages of one request, again and again"
    assert domain.device.nr_allocs == 1
    disk.close()
    assert domain.device.grants == {}


def test_whole_pages_are_lent_in_place(domain_of: Callable[..., Any], kind: str) -> None:
    domain = domain_of()
    disk = Disk(kind, domain, persistent=False, max_segments=32)
    run = domain.memory.allocate_run(20)
    buffer = domain.memory.join(run)
    allocs = domain.device.nr_allocs
    refs, nr_requests = disk.run(BlkifOp.READ, 0, buffer)
    assert nr_requests == 1
    assert bytes(buffer) == disk.disk[: len(buffer)]
    assert refs == domain.table.grant(BACKEND, [page.frame for page in run])
    assert domain.device.nr_allocs == allocs + 1, "one call for all of it"
    assert disk.run(BlkifOp.WRITE, PAGE_SIZE, buffer)[0] == refs
    part, _ = disk.run(BlkifOp.WRITE, 0, buffer[512 : 512 + PAGE_SIZE])
    assert not set(part) & set(refs), "parts of pages go through the pool"
    disk.close()
    assert set(domain.device.grants) == set(refs), "the buffer is its owner's to free"


def test_at_the_limit_the_pool_serves(domain_of: Callable[..., Any], kind: str) -> None:
    """Pages of one request are set aside when the engine is made: all goes on, one request at a time if need be."""
    domain = domain_of(limit=15)
    disk = Disk(kind, domain, persistent=False)
    buffer = domain.memory.join(domain.memory.allocate_run(64))
    refs, nr_requests = disk.run(BlkifOp.READ, 0, buffer)
    assert bytes(buffer) == disk.disk[: len(buffer)]
    assert nr_requests == 6
    assert len(set(refs)) == 11


def test_no_room_for_a_single_request(domain_of: Callable[..., Any], kind: str) -> None:
    domain = domain_of(limit=10)
    with pytest.raises(GrantError, match="11 pages more cannot be granted"):
        Disk(kind, domain, persistent=True)


def test_bios_of_a_lost_backend(domain_of: Callable[..., Any], kind: str) -> None:
    domain = domain_of()
    disk = Disk(kind, domain, persistent=False)
    buffer = domain.memory.join(domain.memory.allocate_run(2))
    bio = Bio(BlkifOp.READ, 0, buffer)
    disk.engine.submit(bio)
    disk.engine.fill()
    disk.engine.push()
    assert disk.engine.fail_all(OSError(errno.EIO, "lost")) == [bio]
    disk.close()
    assert domain.table.end_deferred() == 0
    assert len(domain.device.grants) == 2, "the buffer's, until it is freed"
