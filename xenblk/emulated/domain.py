"""A domain as its host keeps it: its memory file with the grant table in front, and the hypervisor's own tables.

Files of one domain, all of them sealed against any change of size, so that no process can make another one's mapping
point at nothing:

    memory   frame n is the page at n * 4096; frames 0 .. GRANT_FRAMES-1 are the grant table (grant_entry_v1)
    active   what the hypervisor knows of each grant: pins, recorded frame (grants/gnttab.h, struct xb_active_entry)
"""

import dataclasses
import fcntl
import mmap
import os
import struct
from typing import Final

from xenblk._native import lib
from xenblk.abi import DOM0, PAGE_SIZE, Domid
from xenblk.errors import HostError
from xenblk.grants import ACTIVE_ENTRY_BYTES, MAPTRACK_ENTRY_BYTES, GnttabDomain
from xenblk.xenstore.page import XENSTORE_GREF

_GRANT_ENTRY: Final = struct.Struct("<HHI")
"""flags, domid, frame (struct grant_entry_v1)"""

GRANT_FRAMES: Final = 64
"""Xen's default `gnttab_max_frames`: 32768 references."""

MEMORY_FRAMES_DEFAULT: Final = 256 * 256
MEMORY_FRAMES_MAX: Final = 1 << 24

NR_GRANTS: Final = GRANT_FRAMES * PAGE_SIZE // 8
MAPTRACK_ENTRIES: Final = 1024 * 256
"""Xen's default `gnttab_max_maptrack_frames`, 1024, of 256 entries each; per mapping process here."""


def sealed_memfd(name: str, nr_bytes: int) -> int:
    """A new memory file of a fixed size, all zero; pages take memory only once touched."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, nr_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


@dataclasses.dataclass(slots=True)
class Maptrack:
    """The mappings of one process: a file that it writes as it maps and unmaps; the host reads it when it dies."""

    fd: int
    view: mmap.mmap

    @classmethod
    def create(cls, owner: int) -> "Maptrack":
        """A new, empty maptrack for process number `owner`."""
        nr_bytes = MAPTRACK_ENTRIES * MAPTRACK_ENTRY_BYTES
        fd = sealed_memfd(f"xenblk-maptrack-{owner}", nr_bytes)
        return cls(fd, mmap.mmap(fd, nr_bytes))

    def close(self) -> None:
        """Forget it."""
        self.view.close()
        os.close(self.fd)


@dataclasses.dataclass(eq=False, slots=True)
class Domain:
    """One guest domain. `kernel` is the process that runs it, None while nobody does.

    `instance` numbers the domain's memory: a domain that is booted again gets new memory and a new instance, and what
    is still mapped of the old one keeps the old one's files alive at its mapper.
    """

    domid: Domid
    instance: int
    memory_frames: int
    memory_fd: int
    active_fd: int
    table: mmap.mmap
    active: mmap.mmap
    kernel: object | None = None

    @classmethod
    def create(cls, domid: Domid, instance: int, memory_frames: int) -> "Domain":
        """A domain with fresh, zeroed memory."""
        memory_fd = sealed_memfd(f"xenblk-dom{domid}-memory", memory_frames * PAGE_SIZE)
        active_fd = sealed_memfd(f"xenblk-dom{domid}-active", NR_GRANTS * ACTIVE_ENTRY_BYTES)
        table = mmap.mmap(memory_fd, GRANT_FRAMES * PAGE_SIZE)
        active = mmap.mmap(active_fd, NR_GRANTS * ACTIVE_ENTRY_BYTES)
        return cls(domid, instance, memory_frames, memory_fd, active_fd, table, active)

    def foreign(self) -> GnttabDomain:
        """The domain as the grant operations see it."""
        return GnttabDomain(
            self.domid,
            self.instance,
            self.memory_fd,
            self.memory_frames,
            memoryview(self.table),
            memoryview(self.active),
        )

    def map_store_page(self) -> mmap.mmap:
        """The page that the domain granted to domain 0 by Xen's reference for it; HostError EINVAL if it did not."""
        flags, domid, frame = _GRANT_ENTRY.unpack_from(self.table, XENSTORE_GREF * _GRANT_ENTRY.size)
        if flags & (lib.GTF_type_mask | lib.GTF_readonly) != lib.GTF_permit_access or domid != DOM0:
            raise HostError("EINVAL", f"domain {self.domid} did not grant its xenstore page to domain 0")
        if frame >= self.memory_frames:
            raise HostError("EINVAL", f"domain {self.domid} has {self.memory_frames} frames, no frame {frame}")
        return mmap.mmap(self.memory_fd, PAGE_SIZE, offset=frame * PAGE_SIZE)

    def close(self) -> None:
        """Let go of the files; mappers that hold them keep theirs."""
        self.table.close()
        self.active.close()
        os.close(self.memory_fd)
        os.close(self.active_fd)
