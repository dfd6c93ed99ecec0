"""A frontend's nodes in xenstore, and its backend's as it reads them. Nothing in here waits or decides."""

import contextlib
import dataclasses
import errno
import re
from collections.abc import Sequence
from typing import Final

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, SECTOR_SIZE, Domid
from xenblk.blkfront.connection import Ring
from xenblk.blkif import VDISK_READONLY
from xenblk.errors import UsageError, XenstoreError
from xenblk.platform import Platform
from xenblk.vdev import vdev_name
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_SECTOR_SIZES: Final = (512, 1024, 2048, 4096)

_OF_A_CONNECTION: Final = re.compile(
    r"event-channel|ring-ref\d*|ring-page-order|num-ring-pages|multi-queue-num-queues|queue-\d+"
)
"""Keys that one connection may have and the next may not."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackendProperties:
    """What a backend says of its disk: sizes in bytes, and which operations there are."""

    size: int
    sector_size: int
    read_only: bool
    persistent: bool
    max_segments: int
    flush_cache: bool
    barrier: bool
    discard: bool
    discard_granularity: int
    discard_alignment: int
    discard_secure: bool

    def resized(self, size: int) -> "BackendProperties":
        """The same disk with another size."""
        return dataclasses.replace(self, size=size)


class FrontendNodes:
    """The nodes of disk `handle`. UsageError if the domain has no such disk. `state` is the state written last."""

    def __init__(self, platform: Platform, handle: int) -> None:
        self.path = f"/local/domain/{platform.domid}/device/vbd/{handle}"
        self.state = XenbusState.INITIALISING
        self.store: Xenstore = platform.xenstore()
        try:
            self.find_backend()
        except XenstoreError:
            self.store.close()
            raise UsageError(f"domain {platform.domid} has no disk {vdev_name(handle)}: attach one first") from None

    def find_backend(self) -> None:
        """Look which backend the toolstack chose. XenstoreError if it says none."""
        self.backend_path = self.store.read(f"{self.path}/backend")
        self.backend_id = Domid(int(self.store.read(f"{self.path}/backend-id")))

    # The frontend's own

    @property
    def shown_state(self) -> XenbusState:
        """The state as it stands in the node, where a predecessor may have left it."""
        return parse_state(self.store.read(f"{self.path}/state", ""))

    @property
    def trusted(self) -> bool:
        """Whether the toolstack says that the backend may see more than the pages of a pool."""
        return self.store.read(f"{self.path}/trusted", "1") != "0"

    def switch_state(self, state: XenbusState) -> None:
        """Write the state, unless the node is gone: a removed device must not come back to life."""
        self.state = state

        def write(transaction: XenstoreTransaction) -> None:
            if transaction.exists(f"{self.path}/state"):
                transaction.write(f"{self.path}/state", str(int(state)))

        self.store.transact(write)

    def write_keys(self, rings: Sequence[Ring], feature_persistent: bool) -> None:
        """Tell the backend how to reach the rings, all at once, and take away what an earlier connection said."""
        nodes = {**ring_keys(rings), "feature-persistent": str(int(feature_persistent))}

        def write(transaction: XenstoreTransaction) -> None:
            for key in transaction.directory(self.path):
                if key not in nodes and _OF_A_CONNECTION.fullmatch(key):
                    transaction.rm(f"{self.path}/{key}")
            for key, value in nodes.items():
                transaction.write(f"{self.path}/{key}", value)

        self.store.transact(write)

    # The backend's

    @property
    def backend_state_path(self) -> str:
        """The node to watch."""
        return f"{self.backend_path}/state"

    @property
    def backend_state(self) -> XenbusState:
        """The state that the backend shows; UNKNOWN if its nodes are gone."""
        try:
            return parse_state(self.store.read(self.backend_state_path, ""))
        except XenstoreError as e:
            if e.name != "EACCES":  # what is not there is as unreadable as the directory that it would be in
                raise
            return XenbusState.UNKNOWN

    @property
    def online(self) -> bool:
        """Whether the device is to come back after its backend closed it."""
        return self.store.read(f"{self.backend_path}/online", "0") == "1"

    def read_uint(self, key: str, default: int | None = None) -> int:
        """A number of the backend's; `default` for whatever is none, or OSError EIO without a default."""
        text = self.store.read(f"{self.backend_path}/{key}", "")
        if text.isascii() and text.isdecimal() and len(text) <= 20:
            return int(text)
        if default is None:
            raise OSError(errno.EIO, f"the backend must write a number to {self.backend_path}/{key}, not {text[:40]!r}")
        return default

    @property
    def max_ring_page_order(self) -> int:
        """Of the largest ring that the backend takes, by either of its nodes."""
        pages = max(1, self.read_uint("max-ring-pages", 1))
        return max(self.read_uint("max-ring-page-order", 0), pages.bit_length() - 1)

    @property
    def size(self) -> int:
        """The disk's size in bytes; `sectors` counts 512 of them, whatever the disk's blocks are."""
        return self.read_uint("sectors") * SECTOR_SIZE

    def read_properties(self) -> BackendProperties:
        """All that the backend says of its disk. OSError EIO if it does not say how large it is, or has
        sectors that a page is no multiple of."""
        sector_size = self.read_uint("sector-size", SECTOR_SIZE)
        if sector_size not in _SECTOR_SIZES:
            raise OSError(errno.EIO, f"the sectors of a disk have {_SECTOR_SIZES} bytes, not {sector_size}")
        return BackendProperties(
            size=self.size,
            sector_size=sector_size,
            read_only=bool(self.read_uint("info", 0) & VDISK_READONLY),
            persistent=self.read_uint("feature-persistent", 0) == 1,
            max_segments=max(self.read_uint("feature-max-indirect-segments", 0), BLKIF_MAX_SEGMENTS_PER_REQUEST),
            flush_cache=self.read_uint("feature-flush-cache", 0) == 1,
            barrier=self.read_uint("feature-barrier", 0) == 1,
            discard=self.read_uint("feature-discard", 0) == 1,
            discard_granularity=self.read_uint("discard-granularity", sector_size),
            discard_alignment=self.read_uint("discard-alignment", 0),
            discard_secure=self.read_uint("discard-secure", 0) == 1,
        )

    def why_closed(self, backend: XenbusState) -> str:
        """A sentence, with the backend's own words if it left any."""
        home, _, node = self.backend_path.partition("/backend/")
        reason = ""
        for path in (f"{home}/error/backend/{node}/error", f"{self.backend_path}/hotplug-error"):
            with contextlib.suppress(XenstoreError):  # it is not ours to read, or gone
                reason = reason or self.store.read(path, "")
        return f"the backend at {self.backend_path} went to {backend.label}" + (reason and f": {reason}")


def ring_keys(rings: Sequence[Ring]) -> dict[str, str]:
    """The keys of one queue at the top, those of several in a folder each (io/blkif.h)."""
    if len(rings) == 1:
        return rings[0].keys()
    nodes = {"multi-queue-num-queues": str(len(rings))}
    for number, ring in enumerate(rings):
        for key, value in ring.keys().items():
            nodes[key if key in ("protocol", "ring-page-order", "num-ring-pages") else f"queue-{number}/{key}"] = value
    return nodes
