"""What the host does with grants: release those of a process that died, and report those that are pinned."""

from collections.abc import Iterable, Sequence

from xenblk._native import ffi, lib
from xenblk.grants.entries import Entries
from xenblk.grants.gnttab import GnttabDomain
from xenblk.grants.status import ACTIVE_ENTRY_BYTES


def release_dead(
    owner: int, maptrack: memoryview, domains: Iterable[GnttabDomain], survivors: Sequence[memoryview]
) -> int:
    """Release what process `owner` had pinned; returns how many pins that were.

    `maptrack` is its own, `survivors` are those of all processes that live, all of one size. The process may have died
    at any instruction of a map, unmap or copy (gnttab.h has the invariant that is restored).
    """
    dead, *others = (Entries("xb_maptrack_entry", track) for track in (maptrack, *survivors))
    assert all(other.nr_entries == dead.nr_entries for other in others)
    pointers = ffi.new("struct xb_maptrack_entry *[]", [other.first for other in others])
    try:
        return sum(
            lib.xb_gnttab_release_dead(domain.tables, owner, dead.first, pointers, len(others), dead.nr_entries)
            for domain in domains
        )
    finally:
        for entries in (dead, *others):
            entries.close()


def pins(active: memoryview) -> dict[int, tuple[int, int]]:
    """Each reference of an active table that is pinned: (pins for reading, pins for writing)."""
    # Bytes 10 and 11 of an entry count its pins; slicing the whole table makes the scan one pass in C.
    table = bytes(active)
    reads, writes = table[10::ACTIVE_ENTRY_BYTES], table[11::ACTIVE_ENTRY_BYTES]
    if not any(reads) and not any(writes):
        return {}
    return {ref: (r, w) for ref, (r, w) in enumerate(zip(reads, writes, strict=True)) if r or w}
