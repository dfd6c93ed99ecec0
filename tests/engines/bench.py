"""One engine and a guest of good will or bad: requests in, answers out."""

from pathlib import Path
from typing import Any

from engines.sides import FIRST_GOOD, FIRST_TABLE, NR_DATA_FRAMES, NativeTwin, PythonTwin, Setup

from xenblk.abi import GrantRef
from xenblk.blkif import (
    X86_32,
    Abi,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    DiscardRequest,
    IndirectRequest,
    Request,
    pack_segments,
)

ENGINES = {"python": PythonTwin, "native": NativeTwin}
ID = 0xFEDCBA9876543210


class Bench:
    """A guest with references 8 to 47 for pages of their own, an engine at its other end, a disk in memory."""

    def __init__(self, abi: Abi, engine: str, folder: Path = Path(), **setup: Any) -> None:
        self.abi = abi
        self.setup = Setup(**{"x86_32": abi is X86_32, "persistent": False, **setup})
        self.twin = ENGINES[engine](self.setup, folder)
        self.guest = self.twin.guest
        self.ring = self.guest.front
        self.page = self.guest.page
        self.disk = self.twin.disk
        self.counters = self.twin.counters
        self.serve = self.twin.serve
        self.close = self.twin.end

    def memory(self, ref: int) -> memoryview:
        """The page of a reference."""
        return self.guest.world.page(1 + ref - FIRST_GOOD)

    def table(self, at: int) -> memoryview:
        """A page for the segments of indirect requests, which reference FIRST_TABLE + `at` grants."""
        return self.guest.world.page(1 + NR_DATA_FRAMES + at)

    def count(self, name: str) -> int:
        return self.counters.snapshot()[name]

    def ask(self, *requests: Request | bytes) -> list[BlkifResponse]:
        """Have these served; without persistence nothing is mapped then."""
        for request in requests:
            self.ring.put(request if isinstance(request, bytes) else self.abi.pack_request(request))
        self.ring.push()
        self.serve()
        assert self.setup.persistent or self.guest.pins() == 0
        return self.guest.answers()

    def status_of(self, request: Request, operation: int) -> int:
        """Of the one answer, which must be about `operation`."""
        (answer,) = self.ask(request)
        assert (answer.id, answer.operation) == (ID, operation)
        return answer.status

    def status(self, operation: int, *segments: BlkifSegment, sector: int = 0, nr_segments: int | None = None) -> int:
        """Of a request with segments of its own."""
        count = len(segments) if nr_segments is None else nr_segments
        return self.status_of(BlkifRequest(operation, 0, ID, sector, count, segments), operation)

    def discard(self, sector: int, nr_sectors: int, flag: int = 0) -> int:
        return self.status_of(DiscardRequest(0, ID, sector, nr_sectors, flag), 5)

    def indirect(
        self,
        operation: int,
        *segments: BlkifSegment,
        sector: int = 0,
        nr_segments: int | None = None,
        refs: tuple[int, ...] = (),
        answered: int | None = None,
    ) -> int:
        """Of a request with segments in pages of their own, those of `refs` or else as many as needed."""
        data = pack_segments(segments)
        for at in range(0, len(data), 4096):
            self.table(at // 4096)[: len(data[at : at + 4096])] = data[at : at + 4096]
        refs = (refs or tuple(range(FIRST_TABLE, FIRST_TABLE + 8))) + (0,) * 8
        count = len(segments) if nr_segments is None else nr_segments
        request = IndirectRequest(operation, 0, ID, sector, count, tuple(GrantRef(ref) for ref in refs[:8]))
        return self.status_of(request, operation if answered is None else answered)
