"""Both drivers' platform in one program, without a Xen: one guest's memory, its grants, channels of eventfds."""

import mmap
import os
import tempfile
from pathlib import Path

from xenblk.abi import DOM0, PAGE_SIZE, Domid, EvtchnPort
from xenblk.counters import Counters
from xenblk.emulated.channels import WORDS_BYTES, Channel, ChannelTable
from xenblk.emulated.evtchn import EmulatedEventChannel
from xenblk.emulated.memory import DomainMemory
from xenblk.grants import (
    ACTIVE_ENTRY_BYTES,
    MAPTRACK_ENTRY_BYTES,
    GnttabDomain,
    GnttabMapper,
    GrantMapper,
    GrantTableV1,
)

GUEST = Domid(7)
NR_FRAMES = 1024
GRANT_FRAMES = 2
NR_GRANTS = GRANT_FRAMES * PAGE_SIZE // 8
NR_MAPTRACK = 1024


class LocalPlatform:
    """What blkback.Connection and blkfront's Ring and DataPath ask for; they are domain 0 and the guest."""

    domid = GUEST

    def __init__(self) -> None:
        self._memory_fd = _memfd("memory", NR_FRAMES * PAGE_SIZE)
        self._active_fd = _memfd("active", NR_GRANTS * ACTIVE_ENTRY_BYTES)
        self.memory = DomainMemory(self._memory_fd, NR_FRAMES, GRANT_FRAMES)
        self.mapper = GrantMapper(GnttabMapper(1, DOM0, memoryview(bytearray(NR_MAPTRACK * MAPTRACK_ENTRY_BYTES))))
        self.grant_table = GrantTableV1(self.memory.grant_frames())
        self._channels = ChannelTable(bytearray(WORDS_BYTES))
        self._folder = tempfile.TemporaryDirectory()

    def foreign_domain(self, domid: Domid) -> GnttabDomain:
        assert domid == GUEST
        table = memoryview(mmap.mmap(self._memory_fd, GRANT_FRAMES * PAGE_SIZE))
        active = memoryview(mmap.mmap(self._active_fd, NR_GRANTS * ACTIVE_ENTRY_BYTES))
        return GnttabDomain(GUEST, 1, os.dup(self._memory_fd), NR_FRAMES, table, active)

    def release_domain(self, domain: GnttabDomain) -> None:
        domain.close()
        os.close(domain.memory_fd)

    def alloc_unbound(self, remote: Domid) -> EmulatedEventChannel:
        return self._end(GUEST, 0, *self._channels.alloc_unbound(GUEST, remote, self))

    def bind_interdomain(self, remote: Domid, port: EvtchnPort) -> EmulatedEventChannel:
        return self._end(DOM0, 1, *self._channels.bind_interdomain(DOM0, remote, port, self))

    def _end(self, domid: Domid, side: int, port: EvtchnPort, channel: Channel) -> EmulatedEventChannel:
        return self._channels.end_of(channel, side, port, lambda closed: self._channels.close(domid, closed, self))

    def counters(self, _name: str) -> Counters:
        return Counters()

    def journals_dir(self) -> Path:
        return Path(self._folder.name)

    def close(self) -> None:
        self.mapper.close()
        self._folder.cleanup()
        os.close(self._memory_fd)
        os.close(self._active_fd)


def _memfd(name: str, nr_bytes: int) -> int:
    fd = os.memfd_create(name)
    os.truncate(fd, nr_bytes)
    return fd
