"""The mapping side: another domain's granted pages, mapped into this process or copied."""

import contextlib
import dataclasses
import operator
import threading
from collections.abc import Sequence
from typing import Any

from xenblk._native import ffi, lib
from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError, UsageError
from xenblk.grants.arena import Arena
from xenblk.grants.entries import Entries
from xenblk.grants.mappings import max_mapped_pages
from xenblk.grants.status import GrantStatus


class ForeignDomain:
    """A granting domain as a mapper sees it. Its memory stays the caller's, and must outlive every mapping.

    `instance` numbers this life of the domain; `memory_fd` is its memory, frame n at n * 4096; `table` its grant
    table; `active` the hypervisor's table beside it.
    """

    def __init__(
        self, domid: Domid, instance: int, memory_fd: int, nr_frames: int, table: memoryview, active: memoryview
    ) -> None:
        self.domid = domid
        self.instance = instance
        self.memory_fd = memory_fd
        self.table = table
        self.active = active
        self.native: Any = ffi.new("struct xb_grantor *")
        self._entries = (Entries("xb_grant_entry", table), Entries("xb_active_entry", active))
        self.native.shared, self.native.active = (entries.first for entries in self._entries)
        self.native.nr_entries = min(entries.nr_entries for entries in self._entries)
        self.native.nr_frames = nr_frames
        self.native.instance = instance
        self.native.memory_fd = memory_fd
        self.native.domid = domid

    def close(self) -> None:
        """Let go of the tables."""
        for entries in self._entries:
            entries.close()
        self.table.release()
        self.active.release()


@dataclasses.dataclass(eq=False, slots=True)
class Mapping:
    """One reference, mapped or not: `page` is None unless `status` is OKAY."""

    domain: ForeignDomain
    ref: GrantRef
    status: GrantStatus
    handle: int
    slot: int
    page: memoryview | None


@dataclasses.dataclass(frozen=True, slots=True)
class CopySegment:
    """A piece of one granted page and a buffer of the same length; `to_grant` writes the page."""

    ref: GrantRef
    offset: int
    buffer: memoryview
    to_grant: bool


class MappedRegion:
    """Granted pages mapped at consecutive addresses: `view` is all of them."""

    def __init__(self, mapper: "GrantMapper", mappings: list[Mapping], view: memoryview) -> None:
        self._mapper = mapper
        self._mappings = mappings
        self.view = view

    def unmap(self) -> None:
        """Unmap them all; the view must not be touched any more."""
        self._mapper.unmap(self._mappings)


class GrantMapper:
    """Maps granted pages for one process, number `owner`, of domain `domid`; `maptrack` records them for the host.

    `max_pages` is how many may be mapped at a time, NO_SPACE beyond; by default as many as can always be unmapped again
    (xenblk.grants.mappings). Calls from any thread; each is one operation on a batch, and statuses are per reference.
    """

    def __init__(
        self,
        owner: int,
        domid: Domid,
        maptrack: memoryview,
        arena_pages: int = 65536,
        max_pages: int | None = None,
    ) -> None:
        self._arena = Arena(arena_pages)
        self._track = Entries("xb_maptrack_entry", maptrack)
        self.native = ffi.new("struct xb_mapper *")
        self.native.track = self._track.first
        self.native.nr_track = min(self._track.nr_entries, max_mapped_pages() if max_pages is None else max_pages)
        self._stack = ffi.new("uint32_t[]", self.native.nr_track)
        self.native.free = self._stack
        self.native.owner = owner
        self.native.domid = domid
        self._mapped: set[Mapping] = set()
        self._lock = threading.Lock()

    @property
    def is_crowded(self) -> bool:
        """Whether so much is mapped that no page should stay mapped beyond its request."""
        return bool(lib.xb_mapper_is_crowded(self.native))

    @property
    def mapped_pages(self) -> int:
        """How many pages are mapped now."""
        return len(self._mapped)

    def map(self, domain: ForeignDomain, refs: Sequence[GrantRef], readonly: bool = False) -> list[Mapping]:
        """Map each reference to a page of its own; without address space for all of them, all fail with NO_SPACE."""
        try:
            slots = self._arena.allocate_batch(len(refs))
        except GrantError:
            return [Mapping(domain, ref, GrantStatus.NO_SPACE, 0, 0, None) for ref in refs]
        return self._map_at(domain, refs, slots, readonly)

    def map_region(self, domain: ForeignDomain, refs: Sequence[GrantRef], readonly: bool = False) -> MappedRegion:
        """Map references to consecutive pages, or none of them: GrantError names the one that failed."""
        first = self._arena.allocate_run(len(refs))
        mappings = self._map_at(domain, refs, list(range(first, first + len(refs))), readonly)
        for mapping in mappings:
            if mapping.status != GrantStatus.OKAY:
                self.unmap([m for m in mappings if m.status == GrantStatus.OKAY])
                raise map_error(mapping)
        return MappedRegion(self, mappings, self._arena.view(first, len(refs)))

    def _map_at(
        self, domain: ForeignDomain, refs: Sequence[GrantRef], slots: list[int], readonly: bool
    ) -> list[Mapping]:
        ops = ffi.new("struct xb_map_grant_ref[]", len(refs))
        flags = lib.GNTMAP_host_map | (lib.GNTMAP_readonly if readonly else 0)
        for op, ref, slot in zip(ops, refs, slots, strict=True):
            op.host_addr = self._arena.address(slot)
            op.flags = flags
            op.ref = ref
            op.dom = domain.domid
        lib.xb_gnttab_map(self.native, domain.native, ops, len(refs))
        mappings = [
            self._mapping(domain, ref, slot, GrantStatus(op.status), op.handle)
            for op, ref, slot in zip(ops, refs, slots, strict=True)
        ]
        self._arena.free(*[mapping.slot for mapping in mappings if mapping.page is None])
        return mappings

    def _mapping(self, domain: ForeignDomain, ref: GrantRef, slot: int, status: GrantStatus, handle: int) -> Mapping:
        if status != GrantStatus.OKAY:
            return Mapping(domain, ref, status, handle, slot, None)
        mapping = Mapping(domain, ref, status, handle, slot, self._arena.view(slot))
        with self._lock:
            self._mapped.add(mapping)
        return mapping

    def unmap(self, mappings: Sequence[Mapping]) -> None:
        """Unmap pages of one domain that `map` returned; UsageError, and nothing done, if one is not mapped."""
        if not mappings:
            return
        self._forget(mappings)
        mappings = sorted(mappings, key=operator.attrgetter("slot"))  # adjacent pages are one system call
        ops = ffi.new("struct xb_unmap_grant_ref[]", len(mappings))
        for op, mapping in zip(ops, mappings, strict=True):
            op.host_addr = self._arena.address(mapping.slot)
            op.handle = mapping.handle
        lib.xb_gnttab_unmap(self.native, mappings[0].domain.native, ops, len(mappings))
        for op, mapping in zip(ops, mappings, strict=True):
            assert op.status == GrantStatus.OKAY, f"unmapping our own handle {mapping.handle} gave {op.status}"
            mapping.page = None
        self._arena.free(*[mapping.slot for mapping in mappings])

    def _forget(self, mappings: Sequence[Mapping]) -> None:
        with self._lock:
            unmapped = [mapping for mapping in mappings if mapping not in self._mapped]
            if unmapped or len(set(mappings)) < len(mappings):
                raise UsageError(f"only what is mapped can be unmapped, and once: {len(unmapped)} are not mapped")
            assert len({mapping.domain.instance for mapping in mappings}) == 1, "one operation is on one domain"
            self._mapped.difference_update(mappings)

    def copy(self, domain: ForeignDomain, segments: Sequence[CopySegment]) -> list[GrantStatus]:
        """Copy between granted pages and buffers, without mapping anything."""
        ops = ffi.new("struct xb_copy_segment[]", len(segments))
        with contextlib.ExitStack() as held:
            for op, segment in zip(ops, segments, strict=True):
                buffer = ffi.from_buffer(segment.buffer, require_writable=not segment.to_grant)
                held.enter_context(buffer)
                op.virt = int(ffi.cast("uintptr_t", buffer))
                op.ref = segment.ref
                op.offset = segment.offset
                op.len = len(buffer)
                op.to_grant = segment.to_grant
            lib.xb_gnttab_copy(self.native, domain.native, ops, len(segments))
        return [GrantStatus(op.status) for op in ops]

    def close(self) -> None:
        """Unmap whatever is left, and give the address space back."""
        for domain in {mapping.domain for mapping in self._mapped}:
            self.unmap([mapping for mapping in self._mapped if mapping.domain is domain])
        self._track.close()
        self._arena.close()


def map_error(mapping: Mapping) -> GrantError:
    """What to raise for a reference that could not be mapped."""
    return GrantError(
        f"grant reference {mapping.ref} of domain {mapping.domain.domid} cannot be mapped: {mapping.status.sentence}",
        mapping.status,
    )
