"""In what known backends differ on the wire, as a table: a row per backend, a field per difference.

What a source says nothing of is as in Linux. Sources: Linux xen-blkback (6.12), QEMU hw/block/xen-block.c and
dataplane/xen-block.c, blktap's drivers/td-req.c and tapback, FreeBSD sys/dev/xen/blkback/blkback.c.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifStatus

_READ_WRITE: Final = frozenset({BlkifOp.READ, BlkifOp.WRITE})


@dataclasses.dataclass(frozen=True, slots=True)
class BackendQuirks:
    """How one backend behaves. Nodes may hold {sectors}, {sector_size} and {info}, which the disk fills in."""

    name: str
    default_abi: Abi
    """What a frontend without `protocol` speaks."""
    refuses_unknown_protocol: bool
    """Otherwise an unknown `protocol` means the native one."""
    order_renames_ring_ref: bool
    """With `ring-page-order` 0 spelled out, the only page is `ring-ref0` instead of `ring-ref`."""
    max_ring_page_order: int
    operations: frozenset[BlkifOp]
    unknown_status: BlkifStatus
    """The answer to every other operation."""
    probe_nodes: Mapping[str, str]
    """Before InitWait."""
    connect_nodes: Mapping[str, str]
    """Before Connected."""
    max_queues: int = 1
    max_indirect_segments: int = 0
    max_persistent_grants: int = 0
    """Per ring; 0 is a backend that keeps nothing."""
    copies: bool = False
    """Has Xen copy instead of mapping pages."""
    strict_persistent_key: bool = False
    """A `feature-persistent` that is neither 0 nor 1 is refused."""
    refuses_empty: frozenset[BlkifOp] = _READ_WRITE
    """What is an error without segments."""
    checks_empty_flush: bool = True
    """A flush or barrier of no segments is refused on a read-only disk; otherwise it is done on any."""
    ignores_flushed_data: bool = False
    """A flush is done whatever else the request says: of its segments nothing is looked at, and nothing is written."""
    says_refusals: bool = True
    """A frontend that is refused is told so by Closing and a node below error/; otherwise it waits for ever."""
    attaches: bool = False
    """A ring is taken over where its responses end, if it is one; otherwise it begins at 0 whatever it says."""
    garbled_is_unknown: bool = True
    """A frontend's state that is no number counts as Unknown; otherwise it is ignored."""
    refuses_states: bool = False
    """A frontend in InitWait, Reconfiguring or Reconfigured is refused."""
    wide_units: bool = False
    """`sectors` and sector_number count sectors of `sector-size` bytes, not of 512."""
    wide_segments: bool = False
    """So do first_sect and last_sect."""
    wants_large_sectors: bool = False
    """With other sectors than 512 bytes the frontend must write `feature-large-sector-size`."""
    wraps: bool = False
    """A request begins at its sector times the size of one modulo 2**64."""
    follows_size: bool = False
    """When its disk has another size, it publishes that, and writes its state again so that the frontend looks."""
    trusts_req_prod: bool = False
    """More requests than the ring has slots are answered, too; otherwise such a ring stands still."""
    failed_probe_nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Written, beside the error, when the disk cannot be opened."""


_PROPERTIES: Final = {"sectors": "{sectors}", "sector-size": "{sector_size}", "info": "{info}"}

LINUX: Final = BackendQuirks(
    name="linux",
    default_abi=X86_32,
    refuses_unknown_protocol=True,
    order_renames_ring_ref=True,
    max_ring_page_order=4,
    operations=frozenset(BlkifOp),
    unknown_status=BlkifStatus.EOPNOTSUPP,
    probe_nodes={
        "feature-max-indirect-segments": "256",
        "multi-queue-max-queues": "4",
        "max-ring-page-order": "4",
        "feature-flush-cache": "1",
        "feature-barrier": "1",
        "feature-discard": "1",
        "discard-granularity": "{sector_size}",
        "discard-alignment": "0",
        "discard-secure": "0",
    },
    connect_nodes={**_PROPERTIES, "physical-sector-size": "{sector_size}", "feature-persistent": "1"},
    max_queues=4,
    max_indirect_segments=256,
    max_persistent_grants=1056,
    attaches=True,
    refuses_states=True,
    follows_size=True,
)

QEMU: Final = BackendQuirks(
    name="qemu",
    default_abi=X86_64,
    refuses_unknown_protocol=False,
    order_renames_ring_ref=True,
    max_ring_page_order=4,
    operations=_READ_WRITE | {BlkifOp.FLUSH_DISKCACHE, BlkifOp.DISCARD},
    unknown_status=BlkifStatus.ERROR,
    probe_nodes={
        **_PROPERTIES,
        "feature-flush-cache": "1",
        "feature-discard": "1",
        "discard-granularity": "{sector_size}",
        "discard-alignment": "0",
        "max-ring-page-order": "4",
    },
    connect_nodes={},
    copies=True,
    refuses_empty=frozenset(),
    checks_empty_flush=False,
    says_refusals=False,
    wide_units=True,
    wide_segments=True,
    wants_large_sectors=True,
    wraps=True,
    trusts_req_prod=True,
)

TAPDISK: Final = BackendQuirks(
    name="tapdisk",
    default_abi=X86_32,
    refuses_unknown_protocol=True,
    order_renames_ring_ref=False,
    max_ring_page_order=3,
    operations=_READ_WRITE | {BlkifOp.WRITE_BARRIER},
    unknown_status=BlkifStatus.EOPNOTSUPP,
    probe_nodes={"max-ring-page-order": "3"},
    connect_nodes={**_PROPERTIES, "feature-barrier": "1"},
    copies=True,
    strict_persistent_key=True,
    checks_empty_flush=False,
    says_refusals=False,
    garbled_is_unknown=False,
    trusts_req_prod=True,
)

FREEBSD: Final = BackendQuirks(
    name="freebsd",
    default_abi=X86_64,
    refuses_unknown_protocol=True,
    order_renames_ring_ref=False,
    max_ring_page_order=5,
    operations=_READ_WRITE | {BlkifOp.WRITE_BARRIER, BlkifOp.FLUSH_DISKCACHE},
    unknown_status=BlkifStatus.ERROR,
    probe_nodes={"feature-barrier": "1", "feature-flush-cache": "1", "max-ring-page-order": "5"},
    connect_nodes=_PROPERTIES,
    refuses_empty=_READ_WRITE | {BlkifOp.WRITE_BARRIER},
    ignores_flushed_data=True,
    refuses_states=True,
    wide_units=True,
    trusts_req_prod=True,
    failed_probe_nodes={"online": "0"},
)

QUIRKS: Final = {quirks.name: quirks for quirks in (LINUX, QEMU, TAPDISK, FREEBSD)}
