"""The emulated Xen itself: domains, processes, event channels and counters, and what happens when a process ends.

No sockets in here: host.py turns control messages into these calls. What must never be: a process that ended, however
it ended, still holding a pin on a page, a port, or a domain.
"""

import dataclasses
import itertools
import mmap
import re
from pathlib import Path
from typing import Any, Final

from xenblk.abi import DOM0, DOMID_FIRST_RESERVED, Domid, EvtchnPort
from xenblk.counters import Counters
from xenblk.emulated.channels import WORDS_BYTES, Channel, ChannelTable
from xenblk.emulated.domain import (
    GRANT_FRAMES,
    MEMORY_FRAMES_DEFAULT,
    MEMORY_FRAMES_MAX,
    Domain,
    Maptrack,
    sealed_memfd,
)
from xenblk.errors import HostError, XenstoreError
from xenblk.grants import pins, release_dead
from xenblk.xenstore.page import XenstorePage
from xenblk.xenstore.server import XenstoreServer

_COUNTERS_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclasses.dataclass(eq=False, slots=True)
class Process:
    """One process that entered: its number (the owner of its pins), its domain, its maptrack and counters."""

    owner: int
    domid: Domid
    maptrack: Maptrack
    is_kernel: bool
    counters: dict[str, Counters] = dataclasses.field(default_factory=dict)


class Hypervisor:
    """State of one emulated Xen. Not thread-safe: the host's loop is its only caller."""

    def __init__(self, xenstore: XenstoreServer, counters_dir: Path) -> None:
        self.xenstored = xenstore.core
        self.xenstored.domains.hypervisor = self
        self._xenstore = xenstore
        self.words_fd = sealed_memfd("xenblk-evtchn", WORDS_BYTES)
        self._words = mmap.mmap(self.words_fd, WORDS_BYTES)
        self._channels = ChannelTable(self._words)
        self._counters_dir = counters_dir
        self._owners = itertools.count(1)
        self._instances = itertools.count(1)
        self._domains: dict[Domid, Domain] = {}
        self._dying: list[Domain] = []
        self._last_domid = 0
        self._processes: list[Process] = []
        self._prepare_store()

    def _prepare_store(self) -> None:
        for path, perms in (("/local", "n0"), ("/local/domain", "n0"), ("/local/domain/0", "n0")):
            self.xenstored.mkdir(path)
            self.xenstored.set_perms(path, [perms])
        self.xenstored.write("/local/domain/0/domid", b"0")
        self.xenstored.write("/local/domain/0/name", b"Domain-0")

    # Domains

    def create_domain(self, domid: Domid | None, memory_frames: int = MEMORY_FRAMES_DEFAULT) -> Domid:
        """Make a domain and tell xenstore; HostError EEXIST or EINVAL."""
        if domid is None:
            domid = self._next_domid()
        if not DOM0 < domid < DOMID_FIRST_RESERVED:
            raise HostError("EINVAL", f"a guest's domain number is 1 to {DOMID_FIRST_RESERVED - 1}, not {domid}")
        if domid in self._domains:
            raise HostError("EEXIST", f"domain {domid} exists already")
        if not GRANT_FRAMES < memory_frames <= MEMORY_FRAMES_MAX:
            raise HostError(
                "EINVAL", f"a domain has {GRANT_FRAMES + 1} to {MEMORY_FRAMES_MAX} pages of memory, not {memory_frames}"
            )
        self._domains[domid] = Domain.create(domid, next(self._instances), memory_frames)
        self._introduce(domid)
        return domid

    def _next_domid(self) -> Domid:
        """The number after the last one given, as Xen counts: a dead domain's number does not come back at once."""
        for _ in range(DOMID_FIRST_RESERVED):
            self._last_domid = self._last_domid % (DOMID_FIRST_RESERVED - 1) + 1
            if self._last_domid not in self._domains:
                return Domid(self._last_domid)
        raise HostError("ENOSPC", f"all {DOMID_FIRST_RESERVED - 1} domain numbers are in use")

    def domids(self) -> set[Domid]:
        """The domains that exist, without those that are dying."""
        return set(self._domains)

    def _introduce(self, domid: Domid) -> None:
        store, home = self.xenstored, f"/local/domain/{domid}"
        store.introduce(domid)
        for path, perms in (
            (home, ["n0", f"r{domid}"]),
            (f"{home}/device", ["n0", f"r{domid}"]),
            (f"{home}/device/vbd", ["n0", f"r{domid}"]),
            (f"{home}/backend", [f"n{domid}"]),
            (f"{home}/data", [f"n{domid}"]),
            (f"{home}/error", [f"n{domid}"]),
        ):
            store.mkdir(path)
            store.set_perms(path, perms)
        store.write(f"{home}/domid", str(domid).encode())
        store.write(f"{home}/name", f"guest-{domid}".encode())

    def destroy_domain(self, domid: Domid) -> None:
        """End a domain at once: its nodes go, its ports close, its peers notice. HostError ENOENT."""
        domain = self._domains.pop(domid, None)
        if domain is None:
            raise HostError("ENOENT", f"there is no domain {domid}")
        self._dying.append(domain)
        self._xenstore.disconnect_ring(domid)
        if domain.kernel is not None:
            self._channels.close_all(domain.kernel)
            domain.kernel = None
        self.xenstored.release(domid)
        self._mark_offline(domid)
        self.xenstored.rm(f"/local/domain/{domid}")
        self.reap()

    def _mark_offline(self, domid: Domid) -> None:
        store = self.xenstored
        for home in store.directory("/local/domain"):
            backends = f"/local/domain/{home}/backend"
            for backend_type in store.directory(backends) if store.exists(backends) else []:
                devices = f"{backends}/{backend_type}/{domid}"
                for device in store.directory(devices) if store.exists(devices) else []:
                    store.write(f"{devices}/{device}/online", b"0")

    def reap(self) -> None:
        """Forget dead domains of which nothing is mapped any more."""
        for domain in list(self._dying):
            if not pins(memoryview(domain.active)):
                self._dying.remove(domain)
                domain.close()

    def foreign(self, domid: Domid) -> Domain:
        """The domain to map grants of; HostError ENOENT."""
        domain = self._domains.get(domid)
        if domain is None:
            raise HostError("ENOENT", f"there is no domain {domid}")
        return domain

    # Processes

    def enter(self, domid: Domid) -> Process:
        """A process joins domain 0, or boots a guest as its kernel; HostError ENOENT or EBUSY."""
        if domid != DOM0:
            domain = self.foreign(domid)
            if domain.kernel is not None:
                raise HostError("EBUSY", f"domain {domid} is running already: one process at a time is its kernel")
        owner = next(self._owners)
        process = Process(owner, domid, Maptrack.create(owner), is_kernel=domid != DOM0)
        self._processes.append(process)
        if process.is_kernel:
            self._boot(domain, process)
        return process

    def _boot(self, domain: Domain, process: Process) -> None:
        fresh = Domain.create(domain.domid, next(self._instances), domain.memory_frames)
        fresh.kernel = process
        self._domains[domain.domid] = fresh
        self._xenstore.disconnect_ring(domain.domid)
        self.xenstored.boot(domain.domid)
        self._dying.append(domain)
        self.reap()

    def halt(self, process: Process) -> None:
        """The process shut its domain down in good order: the domain stays, to be booted again."""
        domain = self._domains.get(process.domid)
        if domain is not None and domain.kernel is process:
            domain.kernel = None
            self._xenstore.disconnect_ring(process.domid)
            self.xenstored.shut_down(process.domid)

    def leave(self, process: Process) -> None:
        """A process ended. A domain that loses its kernel without a halt is destroyed, as a crashed guest is."""
        self._processes.remove(process)
        for counters in process.counters.values():
            counters.close_books()
            counters.close()
        self._release_grants(process)
        process.maptrack.close()
        self._channels.close_all(process)  # after the grants: a peer takes an unbound channel for "nothing is mapped"
        domain = self._domains.get(process.domid)
        if domain is not None and domain.kernel is process:
            self.destroy_domain(process.domid)
        self.reap()

    def _release_grants(self, process: Process) -> None:
        domains = [domain.foreign() for domain in (*self._domains.values(), *self._dying)]
        survivors = [memoryview(survivor.maptrack.view) for survivor in self._processes]
        with memoryview(process.maptrack.view) as maptrack:
            release_dead(process.owner, maptrack, domains, survivors)
        for domain in domains:
            domain.close()
        for view in survivors:
            view.release()

    def create_counters(self, process: Process, name: str) -> Path:
        """The file of counters `name`, this process's until it ends; HostError EINVAL for an unusable name."""
        if not _COUNTERS_NAME.fullmatch(name):
            raise HostError("EINVAL", f"counters are named by letters, digits, `-` and `.`, not {name!r}")
        path = self._counters_dir / name
        counters = Counters.open(path, writable=True) if path.exists() else Counters.create(path)
        process.counters[name] = counters
        return path

    # Event channels

    def alloc_unbound(self, process: Process, remote: Domid) -> tuple[EvtchnPort, Channel]:
        """EVTCHNOP_alloc_unbound for this process."""
        return self._channels.alloc_unbound(process.domid, remote, process)

    def bind_interdomain(self, process: Process, remote: Domid, port: EvtchnPort) -> tuple[EvtchnPort, Channel]:
        """EVTCHNOP_bind_interdomain for this process."""
        return self._channels.bind_interdomain(process.domid, remote, port, process)

    def close_port(self, process: Process, port: EvtchnPort) -> None:
        """EVTCHNOP_close."""
        self._channels.close(process.domid, port, process)

    # The rings of xenstore

    def open_store_ring(self, process: Process) -> tuple[EvtchnPort, Channel]:
        """Serve the xenstore page of this process's domain; the port is the domain's end. HostError EINVAL."""
        domain = self._domains.get(process.domid)
        if domain is None or domain.kernel is not process:
            raise HostError("EINVAL", "only a running guest has a xenstore ring")
        self._xenstore.disconnect_ring(process.domid)
        page = domain.map_store_page()
        port, channel = self._channels.alloc_unbound(process.domid, DOM0, process)
        own_port, _ = self._channels.bind_interdomain(DOM0, process.domid, port, self)
        doorbell = self._channels.end_of(channel, 1, own_port, lambda p: self._channels.close(DOM0, p, self))
        self._xenstore.connect_ring(process.domid, XenstorePage(memoryview(page), server=True), doorbell)
        return port, channel

    def exists(self, domid: Domid) -> bool:
        """See xenstore's Hypervisor."""
        return domid in self._domains

    def connect(self, domid: Domid, port: int) -> None:
        """See xenstore's Hypervisor: a domain is introduced when it is made; being introduced again resets its ring."""
        if domid not in self._domains:
            raise XenstoreError("EINVAL", f"there is no domain {domid}")
        self._xenstore.reset_ring(domid)

    def disconnect(self, domid: Domid) -> None:
        """See xenstore's Hypervisor."""
        self._xenstore.disconnect_ring(domid)

    # Reports

    def status(self) -> list[dict[str, Any]]:
        """Every domain, dying ones too: what is running, which grants are pinned, which ports are held."""
        self.reap()
        report = []
        for domain in (*self._domains.values(), *self._dying):
            pinned = pins(memoryview(domain.active))
            report.append(
                {
                    "domid": domain.domid,
                    "state": self._state_of(domain),
                    "memory_bytes": domain.memory_frames * 4096,
                    "pinned_grants": len(pinned),
                    "pins": sum(reads + writes for reads, writes in pinned.values()),
                    "ports": [] if domain in self._dying else self._channels.ports(domain.domid),
                }
            )
        return report

    def _state_of(self, domain: Domain) -> str:
        if domain in self._dying:
            return "dying"
        return "running" if domain.kernel is not None else "halted"
