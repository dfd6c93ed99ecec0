"""How a request's data reaches the guest's pages: through mappings, kept or not, or by grant copy.

Both ways have `pages`, a context that lends one buffer per segment, each exactly as long as the segment. When the
context has ended, nothing of the request is mapped but what the persistent cache keeps, so the engine may respond: the
frontend takes its pages back the moment it sees the response. `read` is for pages that say where the data is.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, GrantRef
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import BlkifSegment
from xenblk.counters import Counters
from xenblk.errors import GrantError
from xenblk.grants import CopySegment, ForeignDomain, GrantMapper, GrantStatus, PersistentGrants


class DataAccess(Protocol):
    """Lends the guest's pages for one request at a time."""

    def pages(
        self, segments: Sequence[BlkifSegment], to_device: bool
    ) -> contextlib.AbstractContextManager[list[memoryview]]:
        """Buffers of the segments, holding the guest's data if `to_device`; GrantError if a grant is unusable."""

    def read(self, refs: Sequence[GrantRef], nr_bytes: int) -> bytes:
        """The first `nr_bytes` of these pages, one page after the other, read once; GrantError as above."""

    def purge(self) -> None:
        """Let go of mappings that were kept too long; called every PURGE_INTERVAL_S."""

    def close(self) -> None:
        """Unmap everything."""


class MappedAccess:
    """Maps granted pages, and keeps them mapped as far as persistence was negotiated and the limit allows."""

    def __init__(
        self, grants: PersistentGrants, parameters: BackendParameters, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._grants = grants
        self._parameters = parameters
        self._now = now

    @contextlib.contextmanager
    def pages(self, segments: Sequence[BlkifSegment], to_device: bool) -> Iterator[list[memoryview]]:
        """See DataAccess."""
        grants = self._grants.acquire([s.gref for s in segments], device_writes=to_device, now=self._now())
        try:
            yield [
                grant.page[segment.first_sect * SECTOR_SIZE : (segment.last_sect + 1) * SECTOR_SIZE]
                for grant, segment in zip(grants, segments, strict=True)
            ]
        finally:
            self._grants.release(grants, self._now())

    def read(self, refs: Sequence[GrantRef], nr_bytes: int) -> bytes:
        """See DataAccess."""
        grants = self._grants.acquire(refs, device_writes=True, now=self._now())
        try:
            return b"".join(bytes(grant.page) for grant in grants)[:nr_bytes]
        finally:
            self._grants.release(grants, self._now())

    def purge(self) -> None:
        """See DataAccess. The parameters are read anew each time: they may change while the ring is served."""
        self._grants.set_limits(
            self._parameters.max_persistent_grants, self._parameters.persistent_grant_unused_seconds
        )
        self._grants.purge(self._now())

    def close(self) -> None:
        """See DataAccess."""
        self._grants.close()


class CopiedAccess:
    """Has Xen copy between granted pages and buffers of our own; maps nothing, keeps nothing."""

    def __init__(self, mapper: GrantMapper, domain: ForeignDomain, counters: Counters) -> None:
        self._mapper = mapper
        self._domain = domain
        self._counters = counters

    @contextlib.contextmanager
    def pages(self, segments: Sequence[BlkifSegment], to_device: bool) -> Iterator[list[memoryview]]:
        """See DataAccess."""
        buffers = [memoryview(bytearray((s.last_sect - s.first_sect + 1) * SECTOR_SIZE)) for s in segments]
        if to_device:
            self._copy(segments, buffers, to_grant=False)
        yield buffers
        if not to_device:
            self._copy(segments, buffers, to_grant=True)

    def read(self, refs: Sequence[GrantRef], nr_bytes: int) -> bytes:
        """See DataAccess."""
        table = bytearray(nr_bytes)
        pages = [memoryview(table)[at : at + PAGE_SIZE] for at in range(0, nr_bytes, PAGE_SIZE)]
        self._copy_all([CopySegment(ref, 0, page, False) for ref, page in zip(refs, pages, strict=True)])
        return bytes(table)

    def _copy(self, segments: Sequence[BlkifSegment], buffers: list[memoryview], to_grant: bool) -> None:
        self._copy_all(
            [
                CopySegment(segment.gref, segment.first_sect * SECTOR_SIZE, buffer, to_grant)
                for segment, buffer in zip(segments, buffers, strict=True)
            ]
        )

    def _copy_all(self, copies: list[CopySegment]) -> None:
        statuses = self._mapper.copy(self._domain, copies)
        self._counters.copy_ops += 1
        for copy, status in zip(copies, statuses, strict=True):
            if status != GrantStatus.OKAY:
                raise GrantError(f"grant {copy.ref} cannot be copied: {status.name}", status)
            self._counters.copy_pages += 1

    def purge(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is mapped."""
