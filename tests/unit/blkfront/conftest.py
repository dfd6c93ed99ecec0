"""A frontend engine of either kind, in memory, and its backend by hand."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.lending import Lender
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import X86_64, Abi, BlkifOp, BlkifRequest, BlkifResponse
from xenblk.counters import Counters
from xenblk.emulated.memory import DomainMemory
from xenblk.grants import GrantPool, GrantTable
from xenblk.ring import BackRing, FrontRing

BACKEND = Domid(0)
HANDLE = 51712
NR_FRAMES, TABLE_FRAMES = 600, 1
MAPPED = 8 | 16
"""GTF_reading and GTF_writing."""


class World:
    """A frontend engine, and its backend: `take` its requests, `answer` them; `map` marks what it keeps mapped."""

    def __init__(
        self, engine: str, *, persistent: bool = True, abi: Abi = X86_64, nr_pages: int = 384, nr_grants: int = 512
    ) -> None:
        fd = os.memfd_create("domain")
        os.truncate(fd, NR_FRAMES * PAGE_SIZE)
        self.memory = DomainMemory(fd, NR_FRAMES, TABLE_FRAMES)
        os.close(fd)
        self.grant_frames = self.memory.grant_frames()
        self.table = GrantTable(self.grant_frames[: nr_grants * 8])
        self.counters = Counters()
        self.abi = abi
        ring_page = self.memory.allocate_page().view
        self.ring = FrontRing(ring_page, abi.entry_size)
        self.back = BackRing(ring_page, abi.entry_size)
        self.sring = ring_page
        self.engine: Any
        self.pool: GrantPool | None = None
        self.keeps = persistent
        if engine == "native":
            self.engine = NativeFrontEngine(
                self.ring, abi, HANDLE, self.counters, self.table, self.memory, BACKEND, persistent, nr_pages=nr_pages
            )
        else:
            self.pool = GrantPool(self.table, self.memory, BACKEND, nr_pages)
            lender = Lender(self.table, self.memory, self.pool, BACKEND, persistent)
            self.engine = FrontEngine(self.ring, abi, HANDLE, lender, self.counters)

    def submit(self, op: BlkifOp, offset: int = 0, buffer: Any = None) -> Bio:
        """A bio, queued."""
        bio = Bio(op, offset, None if buffer is None else memoryview(buffer).cast("B"))
        self.engine.submit(bio)
        return bio

    def go(self) -> bool:
        """Fill the ring and publish; whether the backend is to be notified."""
        self.engine.fill()
        return bool(self.engine.push())

    def take(self) -> list[BlkifRequest]:
        """What was published."""
        requests = []
        while (slot := self.back.consume()) is not None:
            request = self.abi.parse_request(slot)
            assert isinstance(request, BlkifRequest)
            requests.append(request)
        return requests

    def answer(self, request: BlkifRequest, status: int = 0, **lies: int) -> None:
        """Answer, and publish."""
        response = dataclasses.replace(BlkifResponse(request.id, request.operation, status), **lies)
        self.back.put(self.abi.pack_response(response))
        self.back.push()

    def granted(self, gref: int) -> memoryview:
        """The page behind a reference, as the backend maps it."""
        assert self.grant_frames[gref * 8] & 7 == 1, "granted, to be read and written"
        frame = self.frame(gref)
        return self.memory._view[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE]

    def frame(self, gref: int) -> int:
        """The frame behind a reference."""
        return int.from_bytes(self.grant_frames[gref * 8 + 4 : gref * 8 + 8], "little")

    def map(self, gref: int, mapped: bool = True) -> None:
        """Say in the grant table that the backend has a page mapped, or has not."""
        self.grant_frames[gref * 8] = 1 | (MAPPED if mapped else 0)

    def move(self, request: BlkifRequest, disk: bytearray) -> None:
        """Do what a request asks for."""
        at = request.sector_number * SECTOR_SIZE
        for segment in request.segments:
            first, end = segment.first_sect * SECTOR_SIZE, (segment.last_sect + 1) * SECTOR_SIZE
            part = self.granted(segment.gref)[first:end]
            if request.operation == BlkifOp.WRITE:
                disk[at : at + end - first] = part
            else:
                part[:] = disk[at : at + end - first]
            at += end - first

    def close(self) -> None:
        """End it all."""
        self.engine.close()
        if self.pool is not None:
            self.pool.close()

    @property
    def refs_in_use(self) -> int:
        """Grant references that are not free."""
        return self.table.nr_entries - 8 - self.table.free_count


@pytest.fixture
def world_of() -> type[World]:
    """Makes a world for an engine by its name."""
    return World


@pytest.fixture(params=["native", "python"])
def make(request: pytest.FixtureRequest) -> Callable[..., World]:
    """Makes a world for either engine."""
    return lambda **options: World(request.param, **options)
