"""Grants: pages that one domain lets another use. The granting side, the mapping side, and what each keeps."""

from xenblk.grants.hypervisor import pins, release_dead
from xenblk.grants.mapper import CopySegment, ForeignDomain, GrantMapper, MappedRegion, Mapping
from xenblk.grants.persistent import Grant, OverflowFlag, PersistentGrants
from xenblk.grants.pool import GrantPool, Page, PoolEntry, allocate_pages
from xenblk.grants.status import ACTIVE_ENTRY_BYTES, MAPTRACK_ENTRY_BYTES, GrantStatus
from xenblk.grants.table import GrantTable

__all__ = [
    "ACTIVE_ENTRY_BYTES",
    "MAPTRACK_ENTRY_BYTES",
    "CopySegment",
    "ForeignDomain",
    "Grant",
    "GrantMapper",
    "GrantPool",
    "GrantStatus",
    "GrantTable",
    "MappedRegion",
    "Mapping",
    "OverflowFlag",
    "Page",
    "PersistentGrants",
    "PoolEntry",
    "allocate_pages",
    "pins",
    "release_dead",
]
