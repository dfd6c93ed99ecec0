"""What a backend tells a frontend in its nodes: the limits of the transport, what the disk can do, what the disk is.

Linux writes some of this when it finds the device and some when it connects; other frontends read all of it early, or
refuse to go on without a node. So all of it is there before InitWait, booleans as 0 or 1, and again at Connected.
Source: io/blkif.h (backend XenBus nodes).
"""

import dataclasses
from typing import Final

from xenblk.abi import SECTOR_SIZE
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import VDISK_READONLY, BlkifOp
from xenblk.disk import Disk

FEATURE_OF: Final = {BlkifOp.FLUSH_DISKCACHE: "feature-flush-cache", BlkifOp.WRITE_BARRIER: "feature-barrier"}
"""The node that offers an operation, of those that a disk may turn out not to have."""

Nodes = dict[str, str | None]
"""What to write, by name; None for a node that must not be there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """What a frontend was promised, and holds for true as long as it is connected."""

    persistent: bool
    max_indirect_segments: int


def transport_nodes(parameters: BackendParameters) -> Nodes:
    """What a frontend may ask of the transport; ring sizes in both dialects."""
    return {
        "multi-queue-max-queues": str(parameters.max_queues),
        "max-ring-page-order": str(parameters.max_ring_page_order),
        "max-ring-pages": str(1 << parameters.max_ring_page_order),
        "feature-max-indirect-segments": str(parameters.max_indirect_segments),
        "feature-persistent": _flag(parameters.offers_persistent),
    }


def feature_nodes(disk: Disk, discard_enable: bool) -> Nodes:
    """Which operations the disk has beside reading and writing. Without discard, none of its nodes."""
    granularity = 0 if disk.read_only or not discard_enable else disk.discard_granularity
    discard: Nodes = {
        "feature-discard": "1",
        "discard-granularity": str(max(granularity, disk.sector_size)),
        "discard-alignment": "0",
        "discard-secure": _flag(disk.can_discard_securely),
    }
    return {
        "feature-flush-cache": "1",
        "feature-barrier": "1",
        **(discard if granularity else dict.fromkeys(discard)),
    }


def disk_nodes(disk: Disk, kind: int) -> Nodes:
    """What the disk is; `kind` has the bits of `info` that the toolstack chose. `sectors` counts 512 bytes always."""
    return {
        "sectors": sectors(disk),
        "sector-size": str(disk.sector_size),
        "physical-sector-size": str(disk.sector_size),
        "info": str(kind | (VDISK_READONLY if disk.read_only else 0)),
    }


def sectors(disk: Disk) -> str:
    """The node's value, in units of 512 bytes."""
    return str(disk.size // SECTOR_SIZE)


def _flag(value: bool) -> str:
    return str(int(value))
