"""The mapping side: another domain's granted pages, mapped into this process or copied."""

import contextlib
import dataclasses
import operator
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from xenblk._native import ffi, lib
from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError, UsageError
from xenblk.grants.arena import Arena
from xenblk.grants.status import GrantStatus


class ForeignDomain:
    """A granting domain as a mapper sees it: `native` is a `struct xb_grantor` (mapper.h) or begins with one."""

    def __init__(self, domid: Domid, native: Any) -> None:
        self.domid = domid
        self.native: Any = ffi.cast("struct xb_grantor *", native)
        self._owner = native  # a pointer that is cast does not keep what it points to

    def close(self) -> None:
        """Done with it; nothing of it is mapped any more."""


class NativeMapper(Protocol):
    """Who maps: a platform's `struct xb_mapper` (mapper.h), or what begins with one, and what it stands on."""

    native: Any

    def close(self) -> None:
        """Nothing is mapped any more, and nothing more will be."""


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
    """Maps granted pages for one process, in `arena_pages` pages of address space, by a platform's `mapper`.

    Calls from any thread; each is one operation on a batch, and statuses are per reference.
    """

    def __init__(self, mapper: NativeMapper, arena_pages: int = 65536) -> None:
        self._arena = Arena(arena_pages)
        self._mapper = mapper
        self.native: Any = ffi.cast("struct xb_mapper *", mapper.native)
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
        return self._map_at(domain, refs, slots, readonly, together=False)

    def map_region(self, domain: ForeignDomain, refs: Sequence[GrantRef], readonly: bool = False) -> MappedRegion:
        """Map references to consecutive pages, or none of them: GrantError names the one that failed."""
        first = self._arena.allocate_run(len(refs))
        mappings = self._map_at(domain, refs, list(range(first, first + len(refs))), readonly, together=True)
        for mapping in mappings:
            if mapping.status != GrantStatus.OKAY:
                self.unmap([m for m in mappings if m.status == GrantStatus.OKAY])
                raise map_error(mapping)
        return MappedRegion(self, mappings, self._arena.view(first, len(refs)))

    def _map_at(
        self, domain: ForeignDomain, refs: Sequence[GrantRef], slots: list[int], readonly: bool, *, together: bool
    ) -> list[Mapping]:
        ops = ffi.new("struct xb_map_grant_ref[]", len(refs))
        flags = lib.GNTMAP_host_map | (lib.GNTMAP_readonly if readonly else 0)
        for op, ref, slot in zip(ops, refs, slots, strict=True):
            op.host_addr = self._arena.address(slot)
            op.flags = flags
            op.ref = ref
            op.dom = domain.domid
        lib.xb_mapper_map(self.native, domain.native, ops, len(refs), together)
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
        lib.xb_mapper_unmap(self.native, mappings[0].domain.native, ops, len(mappings))
        for op, mapping in zip(ops, mappings, strict=True):
            assert op.status == GrantStatus.OKAY, f"unmapping our own handle {mapping.handle} gave {op.status}"
            mapping.page = None
        self._arena.free(*[mapping.slot for mapping in mappings])

    def _forget(self, mappings: Sequence[Mapping]) -> None:
        with self._lock:
            unmapped = [mapping for mapping in mappings if mapping not in self._mapped]
            if unmapped or len(set(mappings)) < len(mappings):
                raise UsageError(f"only what is mapped can be unmapped, and once: {len(unmapped)} are not mapped")
            assert len({mapping.domain for mapping in mappings}) == 1, "one operation is on one domain"
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
            lib.xb_mapper_copy(self.native, domain.native, ops, len(segments))
        return [GrantStatus(op.status) for op in ops]

    def close(self) -> None:
        """Unmap whatever is left, and give the address space back."""
        for domain in {mapping.domain for mapping in self._mapped}:
            self.unmap([mapping for mapping in self._mapped if mapping.domain is domain])
        self._mapper.close()
        self._arena.close()


def map_error(mapping: Mapping) -> GrantError:
    """What to raise for a reference that could not be mapped."""
    return GrantError(
        f"grant reference {mapping.ref} of domain {mapping.domain.domid} cannot be mapped: {mapping.status.sentence}",
        mapping.status,
    )
