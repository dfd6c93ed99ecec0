"""A device's own directory in xenstore, which only the toolstack and the backend may write."""

import logging
import re
from typing import Final

from xenblk.blkback.offers import Nodes
from xenblk.blkif import VDISK_CDROM, VDISK_REMOVABLE
from xenblk.errors import XenstoreError
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_log: Final = logging.getLogger("xenblk.blkback")

DISK_KEYS: Final = frozenset(["params", "physical-device-path", "physical-device"])
"""What may say which disk it is: the toolstack's `params`, or what a hotplug script found."""


class DeviceNodes:
    """Reads the toolstack's wishes, writes what the frontend is to see. `state` is the state written last."""

    def __init__(self, store: Xenstore, path: str) -> None:
        self._store = store
        self.path = path
        self.state = XenbusState.INITIALISING

    # What the toolstack wants

    def read(self, key: str, default: str = "") -> str:
        """A node's text."""
        return self._store.read(f"{self.path}/{key}", default)

    @property
    def shown_state(self) -> XenbusState:
        """The state as it stands in the node, where a predecessor of this process may have left it."""
        return parse_state(self.read("state"))

    @property
    def online(self) -> bool:
        """Whether the device is to come back after Closed."""
        return self.read("online", "0") == "1"

    @property
    def disk(self) -> str | None:
        """Which disk it is, a path or what else `params` may say; None as long as nobody has said so."""
        if params := self.read("params"):
            return params
        if path := self.read("physical-device-path"):
            return path
        number = re.fullmatch(r"([0-9a-f]{1,8}):([0-9a-f]{1,8})", self.read("physical-device"), re.IGNORECASE)
        return f"/dev/block/{int(number[1], 16)}:{int(number[2], 16)}" if number else None

    @property
    def mode(self) -> str | None:
        """`mode`, None if nobody wrote it: a disk that may be written says so, with a w."""
        return self.read("mode") or None

    @property
    def sector_size(self) -> str:
        """`sector-size` as the toolstack wrote it."""
        return self.read("sector-size", "512")

    @property
    def discard_enable(self) -> bool:
        """Whether the toolstack allows discard."""
        return self.read("discard-enable", "1") != "0"

    @property
    def kind(self) -> int:
        """The bits of `info` that are the toolstack's to choose."""
        cdrom, removable = self.read("device-type") == "cdrom", self.read("removable") == "1"
        return (VDISK_CDROM if cdrom else 0) | (VDISK_REMOVABLE if removable else 0)

    # What the frontend is to see

    def write(self, nodes: Nodes) -> None:
        """Write or remove nodes, all at once, unless the device is gone: what is removed must not come back."""
        self._store.transact(lambda transaction: self._write(transaction, nodes))

    def switch_state(self, state: XenbusState) -> None:
        """Write the state, unless the device is gone."""
        self.state = state
        self._store.transact(self._write_state)

    def announce(self, nodes: Nodes) -> None:
        """Change nodes under a frontend that is connected: the state, written once more, lets it look at them."""

        def write(transaction: XenstoreTransaction) -> None:
            self._write(transaction, nodes)
            self._write_state(transaction)

        self._store.transact(write)

    def _write(self, transaction: XenstoreTransaction, nodes: Nodes) -> None:
        if not transaction.exists(f"{self.path}/state"):
            return
        for key, value in nodes.items():
            if value is not None:
                transaction.write(f"{self.path}/{key}", value)
            elif transaction.exists(f"{self.path}/{key}"):
                transaction.rm(f"{self.path}/{key}")

    def _write_state(self, transaction: XenstoreTransaction) -> None:
        if transaction.exists(f"{self.path}/state"):
            transaction.write(f"{self.path}/state", str(int(self.state)))

    def record_error(self, number: int, text: str) -> None:
        """Say what is wrong where an operator of Xen looks for it."""
        home, _, node = self.path.partition("/backend/")
        try:
            self._store.write(
                f"{home}/error/backend/{node}/error", f"{number} {text}".encode("ascii", "replace").decode()
            )
        except XenstoreError as e:
            _log.warning("%s: the error could not be recorded: %s", self.path, e)
