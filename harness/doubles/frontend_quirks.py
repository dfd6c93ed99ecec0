"""How known frontends differ on the wire, as a table; `frontends.py` acts on it.

Sources are the drivers themselves: Linux drivers/block/xen-blkfront.c, edk2 OvmfPkg/XenPvBlkDxe, mini-os blkfront.c,
Unikraft drivers/xen/blkfront, NetBSD sys/arch/xen/xen/xbd_xenbus.c (of 2018), win-xenvbd src/xenvbd.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Final

from xenblk.blkif import BlkifOp, BlkifStatus
from xenblk.errors import BlkifPeerError
from xenblk.xenbus import XenbusState

_U64: Final = (1 << 64) - 1
_BARRIER_FIRST: Final = (
    ("feature-barrier", BlkifOp.WRITE_BARRIER),
    ("feature-flush-cache", BlkifOp.FLUSH_DISKCACHE),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """What a frontend makes of a node that ought to be a number; None is to give up."""

    missing: int | None = None
    garbage: int | None = None
    wraps: bool = False
    """Whether "-1" is the largest number, as it is to strtoull."""

    def read(self, key: str, text: str | None) -> int:
        """The number; BlkifPeerError if this frontend gives up."""
        found = self.missing if text is None else self._parse(text)
        if found is None:
            raise BlkifPeerError(f"this frontend cannot do without the backend's node {key}: it is {text!r}")
        return found

    def _parse(self, text: str) -> int | None:
        if not re.fullmatch("-?[0-9]+" if self.wraps else "[0-9]+", text):
            return self.garbage
        return int(text) & _U64


class Follows(enum.Enum):
    """What a connected frontend does about the backend's Closing."""

    NOTHING = "it does not look"
    AT_ONCE = "Closed, whatever is in flight; what comes later is an error"
    WHEN_IDLE = "nothing more is sent, and Closed as soon as nothing is in flight"


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
    always_says_queues: bool = False
    """It writes multi-queue-num-queues for one queue, too."""
    options: frozenset[str] = frozenset()
    """What its user may choose, in our own frontend's words."""
    one_at_a_time: bool = False
    """It has one request in flight, and waits for its answer."""
    numbers: Numbers = Numbers()
    defaults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Numbers that it begins with, and keeps where the node is missing."""
    reads: tuple[str, ...] = ("sectors", "sector-size", "info")
    """Numbers that it reads when the backend is Connected."""
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Nodes of the backend's without which it gives up, and what they are to be where there is no more to say."""
    read_only_by_mode: bool = False
    """It is `mode` that says whether the disk can be written, not `info`."""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else it writes."""
    size_in_sector_size: bool = False
    """It takes the node `sectors` to count sectors of `sector-size` bytes."""
    number_in_sector_size: bool = False
    """It writes sector_number in units of `sector-size`."""
    asks_unaligned: bool = False
    """It sends what is not aligned to `sector-size`; others refuse it."""
    cuts_at_end: bool = False
    """What is asked for beyond the end of the disk is shortened, not refused."""
    checks_responses: bool = False
    """A response that cannot be disables the device; what is in flight then never ends."""
    flushes: tuple[tuple[str, BlkifOp], ...] = (
        ("feature-flush-cache", BlkifOp.FLUSH_DISKCACHE),
        ("feature-barrier", BlkifOp.WRITE_BARRIER),
    )
    """How it makes data durable: the first of these that is offered."""
    flushes_all_ways: bool = False
    """Not the first, but each of them, if the disk can be written."""
    flushes_on_close: bool = False
    """It makes its data durable before it says Closing, and waits for that."""
    flush_needed: bool = False
    """A flush that the backend does not offer is an error of the user's."""
    flush_never_fails: bool = False
    flush_withdrawn_by: frozenset[int] = frozenset()
    """Statuses that make a flush the last one, and a success."""
    discards: bool = False
    """Whether it discards; one that is answered EOPNOTSUPP is its last."""
    unsupported_is_done: bool = False
    """EOPNOTSUPP to anything is a success."""
    follows_size: bool = False
    follows_closing: Follows = Follows.NOTHING
    deadly: frozenset[XenbusState] = frozenset()
    """States of the backend's that end its kernel."""
    resets_on_close: tuple[str, ...] = ()
    """Having closed, it goes back to Initialising and removes these keys, for the system that comes after it."""


_CHILD_OF_MINI_OS: Final = {
    "waits_for_init_wait": False,
    "published": XenbusState.CONNECTED,
    "pointer_ids": True,
    "size_in_sector_size": True,
    "flushes": _BARRIER_FIRST,
    "flushes_all_ways": True,
    "flushes_on_close": True,
    "flush_never_fails": True,
}

QUIRKS: Final[Mapping[str, FrontendQuirks]] = {
    "linux": FrontendQuirks(
        persistent=True,
        queues_max=4,
        indirect_segments_max=32,
        options=frozenset({"ring_page_order", "nr_queues", "max_indirect_segments", "feature_persistent", "trusted"}),
        checks_responses=True,
        flush_withdrawn_by=frozenset({BlkifStatus.EOPNOTSUPP, BlkifStatus.ERROR}),
        discards=True,
        follows_size=True,
        follows_closing=Follows.AT_ONCE,
    ),
    "edk2": FrontendQuirks(
        **_CHILD_OF_MINI_OS,  # type: ignore[arg-type]
        one_at_a_time=True,
        numbers=Numbers(garbage=0),
        resets_on_close=("ring-ref", "event-channel", "protocol"),
    ),
    "mini-os": FrontendQuirks(
        **_CHILD_OF_MINI_OS,  # type: ignore[arg-type]
        numbers=Numbers(missing=_U64, garbage=0, wraps=True),
        needs={"mode": "w"},
        resets_on_close=("ring-ref", "event-channel"),
    ),
    "unikraft": FrontendQuirks(
        # Not that it waits: it gives up at once where the backend has not written what it offers yet.
        published=XenbusState.CONNECTED,
        writes_protocol=False,
        pointer_ids=True,
        queues_max=2,
        always_says_queues=True,
        options=frozenset({"nr_queues"}),
        numbers=Numbers(garbage=0, wraps=True),
        reads=("sectors", "sector-size", "feature-flush-cache", "feature-barrier"),
        needs={
            "mode": "w",
            "multi-queue-max-queues": "1",
            "feature-barrier": "0",
            "feature-flush-cache": "0",
        },
        read_only_by_mode=True,
        size_in_sector_size=True,
        number_in_sector_size=True,
        flushes=_BARRIER_FIRST,
        flush_needed=True,
        resets_on_close=("ring-ref", "event-channel"),
    ),
    "netbsd": FrontendQuirks(
        waits_for_init_wait=False,
        numbers=Numbers(wraps=True),
        size_in_sector_size=True,
        asks_unaligned=True,
        cuts_at_end=True,
        flushes=(("feature-flush-cache", BlkifOp.FLUSH_DISKCACHE),),
        flush_needed=True,
        follows_closing=Follows.WHEN_IDLE,
        deadly=frozenset({XenbusState.RECONFIGURING, XenbusState.RECONFIGURED}),
    ),
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
        numbers=Numbers(missing=0, garbage=0, wraps=True),
        defaults={"sector-size": 512},
        size_in_sector_size=True,
        number_in_sector_size=True,
        flush_withdrawn_by=frozenset({BlkifStatus.EOPNOTSUPP}),
        discards=True,
        unsupported_is_done=True,
        follows_size=True,
    ),
}
