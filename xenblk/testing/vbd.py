"""One disk of one domain, as somebody sees it who looks at both its ends."""

import dataclasses
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.counters import FIELDS, Counters
from xenblk.emulated.control import ControlClient
from xenblk.emulated.rundir import RunDirectory
from xenblk.toolstack import backend_path, frontend_path
from xenblk.vdev import vdev_name
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore

ENDS: Final = ("back", "front")


@dataclasses.dataclass(frozen=True)
class AttachedVbd:
    """Disk `handle` of domain `domid`, served by domain 0. It may be gone again: nothing here fails because of that."""

    store: Xenstore = dataclasses.field(repr=False)
    control: ControlClient = dataclasses.field(repr=False)
    directory: RunDirectory = dataclasses.field(repr=False)
    domid: Domid
    handle: int

    @property
    def vdev(self) -> str:
        """Its device name."""
        return vdev_name(self.handle)

    @property
    def frontend_path(self) -> str:
        """The frontend's directory in xenstore."""
        return frontend_path(self.domid, self.handle)

    @property
    def backend_path(self) -> str:
        """The backend's directory in xenstore."""
        return backend_path(DOM0, self.domid, self.handle)

    def frontend_state(self) -> XenbusState:
        """The state that the frontend shows."""
        return parse_state(self.store.read(f"{self.frontend_path}/state", ""))

    def backend_state(self) -> XenbusState:
        """The state that the backend shows."""
        return parse_state(self.store.read(f"{self.backend_path}/state", ""))

    def error(self) -> str:
        """What the backend recorded as the reason for closing; empty if it recorded nothing."""
        return self.store.read(self.backend_path.replace("/backend/", "/error/backend/", 1) + "/error", "")

    def counters(self, end: str = "back", queue: int | None = None) -> dict[str, int]:
        """The counters of one end, "back" or "front", of one queue or all added up; also after that end is gone.

        Only drivers that keep counters have any: of another all are 0.
        """
        rings = "*" if queue is None else queue
        totals = dict.fromkeys(FIELDS, 0)
        for path in self.directory.counters.glob(f"vbd-{DOM0}-{self.domid}-{self.handle}-{rings}.{end}"):
            counters = Counters.open(path)
            for name, value in counters.snapshot().items():
                totals[name] += value
            counters.close()
        return totals

    def pins(self) -> int:
        """How often pages of the domain are mapped by others, as the hypervisor counts; also after the domain died."""
        domains = self.control.call("status")[0]["domains"]
        return sum(domain["pins"] for domain in domains if domain["domid"] == self.domid)
