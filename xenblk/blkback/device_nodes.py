"""A device's own directory in xenstore, which only the toolstack and the backend may write."""

import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

from xenblk.blkback.offers import Nodes
from xenblk.blkif import VDISK_CDROM, VDISK_REMOVABLE
from xenblk.errors import XenstoreError
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_log: Final = logging.getLogger("xenblk.blkback")

DISK_KEYS: Final = frozenset(["params", "physical-device-path", "physical-device"])
"""What may say which disk it is: the toolstack's `params`, or what a hotplug script found."""

HOTPLUG_SCRIPT: Final = "block-xenblk"
"""Our own hotplug script, which leaves the work to the backend and waits for it."""


def device_numbers(path: str) -> str | None:
    """Major and minor number of a block device as `physical-device` has them, in hexadecimal; None if it is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{os.major(found.st_rdev):x}:{os.minor(found.st_rdev):x}" if stat.S_ISBLK(found.st_mode) else None


def _block_device(major: int, minor: int) -> str:
    """The path of a block device, by its name in the kernel: /dev/block is udev's, and there may be no udev."""
    try:
        uevent = Path(f"/sys/dev/block/{major}:{minor}/uevent").read_text()
    except OSError:
        return f"/dev/block/{major}:{minor}"
    return "/dev/" + dict(line.split("=", 1) for line in uevent.splitlines())["DEVNAME"]


class DeviceNodes:
    """Reads the toolstack's wishes, writes what the frontend is to see. `state` is the state written last.

    A toolstack may remove the device at any moment, and make another in its place: what is removed must not come back
    half, and what is new is Initialising and not to be touched.
    """

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
    def made_by_libxl(self) -> bool:
        """Whether libxl made the device: it names a script always, waits for Closed, and removes the nodes itself."""
        return bool(self.read("script"))

    @property
    def hotplug_is_ours(self) -> bool:
        """Whether nobody's script but ours prepares the disk, so that the backend opens what `params` names."""
        return self.read("script").rpartition("/")[2] in ("", HOTPLUG_SCRIPT)

    def hotplug(self, disk: str) -> Nodes:
        """What a hotplug script writes when it is done, unless one does."""
        if not self.hotplug_is_ours:
            return {}
        numbers = device_numbers(disk)
        device: Nodes = {} if numbers is None else {"physical-device": numbers, "physical-device-path": disk}
        return {**device, "hotplug-status": "connected"}

    @property
    def disk(self) -> str | None:
        """Which disk it is, a path or what else `params` may say; None as long as nobody has said so.

        What `params` names may be nothing that can be opened until a hotplug script has made a device of it.
        """
        if self.hotplug_is_ours and (params := self.read("params")):
            return params
        if path := self.read("physical-device-path"):
            return path
        number = re.fullmatch(r"([0-9a-f]{1,8}):([0-9a-f]{1,8})", self.read("physical-device"), re.IGNORECASE)
        return _block_device(int(number[1], 16), int(number[2], 16)) if number else None

    def is_still(self, disk: str) -> bool:
        """Whether the nodes name the same disk, maybe by another path."""
        now = self.disk
        return now == disk or (now is not None and device_numbers(now) == device_numbers(disk) is not None)

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
        """Write or remove nodes, all at once, unless the device is gone."""
        self._store.transact(lambda transaction: self._write(transaction, nodes))

    def switch_state(self, state: XenbusState) -> None:
        """Write the state, unless the device is gone."""
        before, self.state = self.state, state
        self._store.transact(lambda transaction: self._write_state(transaction, before))

    def announce(self, nodes: Nodes) -> None:
        """Change nodes under a frontend that is connected: the state, written once more, lets it look at them."""

        def write(transaction: XenstoreTransaction) -> None:
            self._write(transaction, nodes)
            self._write_state(transaction, self.state)

        self._store.transact(write)

    def remove(self) -> None:
        """Remove the device, unless it is gone."""
        self._store.prune(self.path, only_if=lambda transaction: self._is_there(transaction, self.state))

    def _is_there(self, transaction: XenstoreTransaction, state: XenbusState) -> bool:
        """Whether the nodes are still those of the device that was in `state`."""
        shown = transaction.read(f"{self.path}/state", "")
        return shown != "" and (parse_state(shown) is not XenbusState.INITIALISING or state is XenbusState.INITIALISING)

    def _write(self, transaction: XenstoreTransaction, nodes: Nodes) -> None:
        if not self._is_there(transaction, self.state):
            return
        for key, value in nodes.items():
            if value is not None:
                transaction.write(f"{self.path}/{key}", value)
            elif transaction.exists(f"{self.path}/{key}"):
                transaction.rm(f"{self.path}/{key}")

    def _write_state(self, transaction: XenstoreTransaction, before: XenbusState) -> None:
        if self._is_there(transaction, before):
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
