"""A process's access to an emulated Xen: what the drivers need (xenblk.platform), over the host's control socket."""

import contextlib
import errno
import mmap
import os
import socket
from pathlib import Path

from xenblk._native import ffi
from xenblk.abi import DOM0, PAGE_SIZE, Domid, EvtchnPort, GrantRef
from xenblk.counters import Counters
from xenblk.emulated.channels import WORDS_BYTES
from xenblk.emulated.control import ControlClient, Message, close_fds
from xenblk.emulated.domain import GRANT_FRAMES, MAPTRACK_ENTRIES, NR_GRANTS
from xenblk.emulated.evtchn import EmulatedEventChannel
from xenblk.emulated.memory import DomainMemory
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import PeerGoneError, UsageError
from xenblk.grants import (
    ACTIVE_ENTRY_BYTES,
    MAPTRACK_ENTRY_BYTES,
    ForeignDomain,
    GnttabDomain,
    GnttabMapper,
    GrantMapper,
    GrantTableV1,
    Page,
)
from xenblk.xenstore.bridge import RingBridge
from xenblk.xenstore.client import Xenstore
from xenblk.xenstore.page import XENSTORE_GREF, XenstorePage


class EmulatedPlatform:
    """This process as domain `domid` of the emulated Xen in `run_dir`.

    For domain 0 any number of processes may enter. For a guest this process becomes the guest's kernel: its memory is
    fresh, and if it goes without `halt` the guest is destroyed. HostError if there is no such Xen or domain.

    A guest may speak to xenstore over its socket, like everyone, or over its ring, like guests of real Xen; of rings it
    has one, so one connection at a time.
    """

    def __init__(self, run_dir: Path, domid: Domid, *, store_ring: bool = False) -> None:
        self.domid = domid
        self._store_ring = store_ring
        self._run_directory = RunDirectory(run_dir)
        self._control = ControlClient(self._run_directory.control)
        try:
            answer, fds = self._control.call("enter", domid=domid)
        except BaseException:
            self._control.close()
            raise
        maptrack_fd, words_fd, *memory_fds = fds
        self._words_map = mmap.mmap(words_fd, WORDS_BYTES)
        self._words = ffi.from_buffer("uint32_t[]", self._words_map)
        self._maptrack = mmap.mmap(maptrack_fd, MAPTRACK_ENTRIES * MAPTRACK_ENTRY_BYTES)
        self._mapper = GrantMapper(GnttabMapper(answer["owner"], domid, memoryview(self._maptrack)))
        self._store_page: Page | None = None
        self._memory: DomainMemory | None = None
        self._grant_table: GrantTableV1 | None = None
        if memory_fds:
            self._memory = DomainMemory(memory_fds[0], answer["memory_frames"], answer["grant_frames"])
            self._grant_table = GrantTableV1(self._memory.grant_frames())
        close_fds(fds)

    def fileno(self) -> int:
        """Becomes readable when the host goes away."""
        return self._control.fileno()

    @property
    def mapper(self) -> GrantMapper:
        """Maps, unmaps and copies what other domains granted to this one."""
        return self._mapper

    @property
    def memory(self) -> DomainMemory:
        """This domain's memory; UsageError in domain 0."""
        if self._memory is None:
            raise UsageError(f"domain {self.domid} has no memory of its own to grant: only guests grant pages here")
        return self._memory

    @property
    def grant_table(self) -> GrantTableV1:
        """This domain's grant table; UsageError in domain 0."""
        if self._grant_table is None:
            raise UsageError(f"domain {self.domid} has no grant table: only guests grant pages here")
        return self._grant_table

    def xenstore(self) -> Xenstore:
        """A new connection to xenstore as this domain."""
        if self._store_ring:
            return Xenstore(f"the ring of domain {self.domid}", sock=self._open_store_ring())
        return Xenstore(str(self._run_directory.xenstore(self.domid)))

    def _open_store_ring(self) -> socket.socket:
        page = self._store_page = self._store_page or self.memory.allocate_page()
        self.grant_table.grant_reserved(GrantRef(XENSTORE_GREF), DOM0, page.frame)
        page.view[:] = bytes(PAGE_SIZE)
        doorbell = self._channel(*self._call("store_ring", 2))
        return RingBridge(XenstorePage(page.view, server=False), doorbell).socket

    def foreign_domain(self, domid: Domid) -> GnttabDomain:
        """Another domain, to map grants of; HostError ENOENT if there is none."""
        answer, (memory_fd, active_fd) = self._call("foreign", 2, domid=domid)
        frames = answer["memory_frames"]
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, memory_fd)
            try:
                table = undo.enter_context(mmap.mmap(memory_fd, GRANT_FRAMES * mmap.PAGESIZE))
                active = undo.enter_context(mmap.mmap(active_fd, NR_GRANTS * ACTIVE_ENTRY_BYTES))
            finally:
                os.close(active_fd)
            undo.pop_all()
        return GnttabDomain(domid, answer["instance"], memory_fd, frames, memoryview(table), memoryview(active))

    def release_domain(self, domain: ForeignDomain) -> None:
        """Done with a domain; nothing of it may be mapped any more."""
        assert isinstance(domain, GnttabDomain), "a domain goes back to the platform that it came from"
        domain.close()
        os.close(domain.memory_fd)

    def alloc_unbound(self, remote: Domid) -> EmulatedEventChannel:
        """A new event channel that `remote` may bind to."""
        return self._channel(*self._call("unbound", 2, remote=remote))

    def bind_interdomain(self, remote: Domid, port: EvtchnPort) -> EmulatedEventChannel:
        """Bind to the event channel that `remote` allocated; HostError EINVAL if it did not."""
        return self._channel(*self._call("bind", 2, remote=remote, port=port))

    def _call(self, op: str, nr_fds: int, **fields: int) -> tuple[Message, list[int]]:
        """Ask for what comes with descriptors; OSError EMFILE, and nothing is held, if there is no room for them."""
        answer, fds = self._control.call(op, **fields)
        if len(fds) < nr_fds:
            close_fds(fds)
            if "port" in answer:
                self._close_port(EvtchnPort(answer["port"]))
            raise OSError(
                errno.EMFILE, f"the host sent {nr_fds} descriptors, and this process may have {len(fds)} more"
            )
        return answer, fds

    def _channel(self, answer: dict[str, int], fds: list[int]) -> EmulatedEventChannel:
        word = self._words + answer["channel"] * 2
        side = answer["side"]
        own_fd, remote_fd = fds
        return EmulatedEventChannel(
            EvtchnPort(answer["port"]), self._words, word + side, word + 1 - side, (own_fd, remote_fd), self._close_port
        )

    def _close_port(self, port: EvtchnPort) -> None:
        with contextlib.suppress(PeerGoneError):
            self._control.call("close", port=port)

    def counters(self, name: str) -> Counters:
        """Counters in the run directory; the host closes their books if this process dies."""
        answer, _fds = self._control.call("counters", name=name)
        return Counters.open(Path(answer["path"]), writable=True)

    def counters_dir(self) -> Path:
        """Where the counter files of this Xen are."""
        return self._run_directory.counters

    def journals_dir(self) -> Path:
        """Where backends of this Xen leave what the next one needs."""
        return self._run_directory.journals

    def halt(self) -> None:
        """Shut this domain down in good order: it stays, and may be booted again."""
        if self.domid != DOM0:
            self._control.call("halt")

    def close(self) -> None:
        """Leave; whatever is still mapped is unmapped, by the host if not here."""
        self._mapper.close()
        self._control.close()
