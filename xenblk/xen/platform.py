"""A process's access to real Xen, from a domain that runs Linux: what the drivers need (xenblk.platform)."""

import contextlib
import re
from pathlib import Path
from typing import Final

from xenblk.abi import Domid, EvtchnPort
from xenblk.counters import Counters
from xenblk.errors import HostError
from xenblk.grants import ForeignDomain, GrantMapper
from xenblk.xen import run_dir as default_run_dir
from xenblk.xen.devices import Devices
from xenblk.xen.evtchn import XenEventChannel
from xenblk.xen.gntdev import GntdevMapper, xen_domain
from xenblk.xen.memory import XenMemory
from xenblk.xen.store import open_store, own_domid
from xenblk.xen.table import XenGrantTable
from xenblk.xenstore.client import Xenstore

_COUNTERS_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


class XenPlatform:
    """This process in the domain that it runs in; HostError if that is not `domid`, where one is given.

    Devices are opened when they are needed. Each that is missing, or may not be opened, is a HostError that says so.
    What a process leaves mapped, bound or granted when it ends, Linux takes back.
    """

    def __init__(
        self, domid: Domid | None = None, *, run_dir: Path | None = None, devices: Devices | None = None
    ) -> None:
        self._devices = Devices() if devices is None else devices
        self._run_dir = default_run_dir() if run_dir is None else run_dir
        self._mapper: GrantMapper | None = None
        self._memory: XenMemory | None = None
        self._grant_table: XenGrantTable | None = None
        self._undo = contextlib.ExitStack()
        with open_store(self._devices) as store:
            self.domid = Domid(own_domid(store, self._devices))
        if domid not in (None, self.domid):
            raise HostError("EINVAL", f"this process runs in domain {self.domid}, and cannot act for domain {domid}")

    @property
    def mapper(self) -> GrantMapper:
        """Maps, unmaps and copies what other domains granted to this one."""
        if self._mapper is None:
            self._mapper = GrantMapper(GntdevMapper(self._devices))
            self._undo.callback(self._mapper.close)
        return self._mapper

    @property
    def memory(self) -> XenMemory:
        """Pages of this process, to be granted."""
        if self._memory is None:
            self._memory = XenMemory(self._devices.open("gntalloc"))
            self._undo.callback(self._memory.close)
        return self._memory

    @property
    def grant_table(self) -> XenGrantTable:
        """Grants pages of `memory`."""
        if self._grant_table is None:
            self._grant_table = XenGrantTable(self.memory)
        return self._grant_table

    def xenstore(self) -> Xenstore:
        """A new connection to xenstore as this domain."""
        return open_store(self._devices)

    def foreign_domain(self, domid: Domid) -> ForeignDomain:
        """Another domain, to map grants of."""
        return xen_domain(domid)

    def release_domain(self, domain: ForeignDomain) -> None:
        """Done with a domain; nothing of it may be mapped any more."""
        domain.close()

    def alloc_unbound(self, remote: Domid) -> XenEventChannel:
        """A new event channel that `remote` may bind to."""
        return XenEventChannel.alloc_unbound(self._devices, remote)

    def bind_interdomain(self, remote: Domid, port: EvtchnPort) -> XenEventChannel:
        """Bind to the event channel that `remote` allocated; HostError if it did not."""
        return XenEventChannel.bind_interdomain(self._devices, remote, port)

    def counters(self, name: str) -> Counters:
        """Counters in the run directory; those of a process that ended are gone on with, its books closed."""
        if not _COUNTERS_NAME.fullmatch(name):
            raise HostError("EINVAL", f"counters are named by letters, digits, `-` and `.`, not {name!r}")
        path = self.counters_dir() / name
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not path.exists():
                return Counters.create(path)
        except OSError as e:
            raise HostError("EACCES", f"the run directory {self._run_dir} cannot be used: {e.strerror}") from None
        counters = Counters.open(path, writable=True)
        counters.close_books()
        return counters

    def counters_dir(self) -> Path:
        """Where the counter files are."""
        return self._run_dir / "counters"

    def journals_dir(self) -> Path:
        """Where backends leave what the next one needs: /run lasts as long as domains. OSError as mkdir(2)."""
        path = self._run_dir / "journals"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def halt(self) -> None:
        """Nothing: a domain is more than one process here."""

    def close(self) -> None:
        """Leave; whatever is still mapped is unmapped."""
        self._undo.close()
