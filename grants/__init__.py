"""Grants: pages that one domain lets another use. The granting side, the mapping side, and what each keeps."""

from xenblk.grants.gnttab import GnttabDomain, GnttabMapper
from xenblk.grants.hypervisor import pins, release_dead
from xenblk.grants.mapper import CopySegment, ForeignDomain, GrantMapper, MappedRegion, Mapping, NativeMapper
from xenblk.grants.mappings import max_mapped_pages
from xenblk.grants.memory import PagedMemory
from xenblk.grants.persistent import Grant, OverflowFlag, PersistentGrants
from xenblk.grants.pool import GrantPool, Page, PoolEntry
from xenblk.grants.status import ACTIVE_ENTRY_BYTES, MAPTRACK_ENTRY_BYTES, GrantStatus
from xenblk.grants.table import GrantTable
from xenblk.grants.table_v1 import GrantTableV1

__all__ = [
    "ACTIVE_ENTRY_BYTES",
    "MAPTRACK_ENTRY_BYTES",
    "CopySegment",
    "ForeignDomain",
    "GnttabDomain",
    "GnttabMapper",
    "Grant",
    "GrantMapper",
    "GrantPool",
    "GrantStatus",
    "GrantTable",
    "GrantTableV1",
    "MappedRegion",
    "Mapping",
    "NativeMapper",
    "OverflowFlag",
    "Page",
    "PagedMemory",
    "PersistentGrants",
    "PoolEntry",
    "max_mapped_pages",
    "pins",
    "release_dead",
]
