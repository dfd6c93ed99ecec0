"""A frontend engine of either kind, in memory, and its backend by hand."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, Domid
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.features import Features
from xenblk.blkfront.lending import Lender
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import (
    X86_64,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    DiscardRequest,
    IndirectRequest,
    Request,
    parse_segments,
)
from xenblk.counters import Counters
from xenblk.emulated.memory import DomainMemory
from xenblk.grants import GrantPool, GrantTableV1
from xenblk.ring import BackRing, FrontRing

BACKEND = Domid(0)
HANDLE = 51712
NR_FRAMES, TABLE_FRAMES = 600, 1
BIG_NR_FRAMES = 5000
MAPPED = 8 | 16
"""GTF_reading and GTF_writing."""


class World:
    """A frontend engine, and its backend: `take` its requests, `answer` them; `map` marks what it keeps mapped."""

    def __init__(
        self,
        engine: str,
        *,
        persistent: bool = True,
        trusted: bool = True,
        abi: Abi = X86_64,
        nr_pages: int = 384,
        nr_grants: int = 512,
        max_segments: int = 11,
        sector_size: int = SECTOR_SIZE,
        features: Features | None = None,
        before: "World | None" = None,
    ) -> None:
        if before is not None:
            self.memory, self.table, self.grant_frames = before.memory, before.table, before.grant_frames
        else:
            self._boot(nr_grants)
        self.counters = Counters()
        self.features = Features() if features is None else features
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
                self.ring,
                abi,
                HANDLE,
                self.counters,
                self.table,
                self.memory,
                BACKEND,
                persistent,
                nr_pages=nr_pages,
                max_segments=max_segments,
                trusted=trusted,
                sector_size=sector_size,
                features=self.features,
            )
        else:
            self.pool = GrantPool(self.table, self.memory, BACKEND, nr_pages)
            lender = Lender(
                self.table,
                self.memory,
                self.pool,
                BACKEND,
                persistent,
                trusted=trusted,
                max_segments=max_segments,
                sector_size=sector_size,
            )
            self.engine = FrontEngine(self.ring, abi, HANDLE, lender, self.counters, self.features)

    def _boot(self, nr_grants: int) -> None:
        nr_table_frames = -(-nr_grants * 8 // PAGE_SIZE)
        nr_frames = NR_FRAMES if nr_table_frames == TABLE_FRAMES else BIG_NR_FRAMES
        fd = os.memfd_create("domain")
        os.truncate(fd, nr_frames * PAGE_SIZE)
        self.memory = DomainMemory(fd, nr_frames, nr_table_frames)
        os.close(fd)
        self.grant_frames = self.memory.grant_frames()
        self.table = GrantTableV1(self.grant_frames[: nr_grants * 8])

    def submit(
        self, op: BlkifOp, offset: int = 0, buffer: Any = None, *, nr_bytes: int = 0, secure: bool = False
    ) -> Bio:
        """A bio, queued."""
        view = None if buffer is None else memoryview(buffer).cast("B")
        bio = Bio(op, offset, view, nr_bytes=nr_bytes, secure=secure)
        self.engine.submit(bio)
        return bio

    def go(self) -> bool:
        """Fill the ring and publish; whether the backend is to be notified."""
        self.engine.fill()
        return bool(self.engine.push())

    def take(self) -> list[Any]:
        """What was published."""
        requests: list[Request] = []
        while (slot := self.back.consume()) is not None:
            requests.append(self.abi.parse_request(slot))
        return requests

    def segments(self, request: Request) -> tuple[BlkifSegment, ...]:
        """The segments of any request, out of its descriptor pages if it has such."""
        if isinstance(request, DiscardRequest):
            return ()
        if isinstance(request, BlkifRequest):
            return request.segments
        grefs = request.indirect_grefs[: -(-request.nr_segments // 512)]
        return parse_segments(b"".join(bytes(self.granted(gref)) for gref in grefs))[: request.nr_segments]

    def grefs(self, request: Request) -> list[int]:
        """All that a request lends: descriptor pages, then data."""
        indirect = isinstance(request, IndirectRequest)
        descriptors = request.indirect_grefs[: -(-request.nr_segments // 512)] if indirect else ()
        return [*descriptors, *(segment.gref for segment in self.segments(request))]

    def answer(self, request: Request, status: int = 0, **lies: int) -> None:
        """Answer, and publish."""
        operation = request.indirect_op if isinstance(request, IndirectRequest) else request.operation
        response = dataclasses.replace(BlkifResponse(request.id, operation, status), **lies)
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

    def move(self, request: Request, disk: bytearray) -> None:
        """Do what a request asks for."""
        at = request.sector_number * SECTOR_SIZE
        operation = request.indirect_op if isinstance(request, IndirectRequest) else request.operation
        if isinstance(request, DiscardRequest):
            disk[at : at + request.nr_sectors * SECTOR_SIZE] = bytes(request.nr_sectors * SECTOR_SIZE)
        for segment in self.segments(request):
            first, end = segment.first_sect * SECTOR_SIZE, (segment.last_sect + 1) * SECTOR_SIZE
            part = self.granted(segment.gref)[first:end]
            if operation in (BlkifOp.WRITE, BlkifOp.WRITE_BARRIER):
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
