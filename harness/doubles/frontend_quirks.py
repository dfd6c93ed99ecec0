"""How known frontends differ on the wire, as a table; `frontends.py` acts on it.

Sources are the drivers themselves: Linux drivers/block/xen-blkfront.c, edk2 OvmfPkg/XenPvBlkDxe, mini-os blkfront.c,
Unikraft drivers/xen/blkfront, NetBSD sys/arch/xen/xen/xbd_xenbus.c, win-xenvbd.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from xenblk.xenbus import XenbusState


@dataclasses.dataclass(frozen=True, slots=True)
class FrontendQuirks:
    """One frontend's ways; the defaults are those of most."""

    waits_for_init_wait: bool = True
    """Whether it looks at the backend's state before it publishes its ring."""
    published: XenbusState = XenbusState.INITIALISED
    """The state it goes to when it has published its ring."""
    writes_protocol: bool = True
    """Whether it writes `protocol`; one that does not needs a toolstack that does, or a backend that guesses right."""
    persistent: bool = False
    """Whether it writes feature-persistent, and keeps a pool of granted pages where the backend does, too."""
    pointer_ids: bool = False
    """Ids are pointers of the guest's kernel, not small numbers."""
    ring_page_order_max: int = 0
    queues_max: int = 1
    indirect_segments_max: int = 0
    """The largest of each that it uses, as far as the backend offers it."""
    needs: tuple[str, ...] = ()
    """Nodes of the backend's without which it gives up."""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else it writes."""
    size_in_sector_size: bool = False
    """It takes the node `sectors` to count sectors of `sector-size` bytes."""
    number_in_sector_size: bool = False
    """It writes sector_number in units of `sector-size`."""
    discards: bool = False
    withdraws_refused: bool = False
    """A discard answered EOPNOTSUPP is its last one; a flush answered with any error, too, and is a success."""
    resets_on_close: bool = False
    """Having closed, it goes back to Initialising and removes its keys, for the system that comes after it."""


QUIRKS: Final[Mapping[str, FrontendQuirks]] = {
    "linux": FrontendQuirks(
        persistent=True, queues_max=4, indirect_segments_max=32, discards=True, withdraws_refused=True
    ),
    "edk2": FrontendQuirks(published=XenbusState.CONNECTED, pointer_ids=True, resets_on_close=True),
    "mini-os": FrontendQuirks(
        published=XenbusState.CONNECTED,
        pointer_ids=True,
        needs=("mode",),
        size_in_sector_size=True,
        resets_on_close=True,
    ),
    "unikraft": FrontendQuirks(
        published=XenbusState.CONNECTED,
        writes_protocol=False,
        pointer_ids=True,
        queues_max=2,
        needs=("mode", "multi-queue-max-queues", "feature-barrier", "feature-flush-cache"),
    ),
    "netbsd": FrontendQuirks(waits_for_init_wait=False),
    "xenvbd": FrontendQuirks(
        pointer_ids=True,
        ring_page_order_max=4,
        indirect_segments_max=256,
        keys={
            "target-id": "0",
            "feature-surprise-remove": "1",
            "feature-online-resize": "1",
            "feature-large-sector-size": "1",
        },
        size_in_sector_size=True,
        number_in_sector_size=True,
        discards=True,
    ),
}
