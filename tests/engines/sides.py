"""Either engine of the backend with a guest, a disk and counters of its own, ready for what a test asks."""

import contextlib
import dataclasses
import os
import random
from pathlib import Path

from engines.guest import Guest

from xenblk.abi import SECTOR_SIZE
from xenblk.blkback.access import CopiedAccess, DataAccess, MappedAccess
from xenblk.blkback.charging import ChargedRecords
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.native_server import NativeServer
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.python_server import PythonServer
from xenblk.blkif import X86_32, X86_64
from xenblk.counters import Counters
from xenblk.disk import FileDisk, MemoryDisk
from xenblk.errors import DiskError
from xenblk.grants import OverflowFlag, PersistentGrants

DISK_SECTORS = 256
NR_GOOD, FIRST_GOOD, NR_DATA_FRAMES = 150, 8, 40
READONLY, FOREIGN, BAD_FRAME, UNGRANTED = 160, 170, 175, 180
FIRST_TABLE, NR_TABLES = 190, 16
"""References to pages for the segments of indirect requests."""
GTF_PERMIT_ACCESS, GTF_READONLY = 1, 4


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What a case may choose. `disk` is "memory", "tmpfs", "file" or "direct"; the last two are served in any order."""

    x86_32: bool = False
    page_order: int = 0
    persistent: bool = True
    limit: int = 1056
    unused_s: int = 0
    grant_copy: bool = False
    read_only: bool = False
    disk: str = "memory"
    disk_sectors: int = DISK_SECTORS
    charged: bool = False
    records_per_page: int = 32
    maptrack_entries: int = 512
    sector_size: int = 512
    max_indirect_segments: int = 256

    @property
    def in_any_order(self) -> bool:
        """Whether answers may overtake each other."""
        return self.disk in ("file", "direct")


class Charges:
    """What was told of the charges."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def connected(self, _ring: object) -> None: ...

    def live(self, user_id: int) -> None:
        self.told.append(("live", user_id))

    def discarded(self, user_id: int) -> None:
        self.told.append(("discarded", user_id))


class Twin:
    """One engine with its guest, its disk and its counters."""

    _server: PythonServer | NativeServer

    def __init__(self, setup: Setup, folder: Path, name: str) -> None:
        self.setup = setup
        self.guest = Guest(X86_32 if setup.x86_32 else X86_64, setup.page_order, setup.maptrack_entries)
        self.counters = Counters()
        self.charges = Charges()
        self.unsupported: list[int] = []
        self.parameters = BackendParameters(
            max_persistent_grants=setup.limit,
            persistent_grant_unused_seconds=setup.unused_s,
            grant_copy=setup.grant_copy,
            records_per_page=setup.records_per_page,
            max_indirect_segments=setup.max_indirect_segments,
        )
        self.overflowed = OverflowFlag()
        self.now_s = 1000
        self._closed = False
        self._path = folder / name
        self.disk = self._open_disk(direct=name == "native")
        self._grant_all()

    def _open_disk(self, direct: bool) -> MemoryDisk | FileDisk:
        content = random.Random("disk").randbytes(self.setup.disk_sectors * SECTOR_SIZE)
        if self.setup.disk == "memory":
            disk = MemoryDisk(len(content), read_only=self.setup.read_only, sector_size=self.setup.sector_size)
            disk.memory[:] = content
            return disk
        self._path.write_bytes(content)
        if direct and self.setup.disk == "direct":
            with contextlib.suppress(DiskError):  # a file system without direct I/O
                return FileDisk(self._path, self.setup.read_only, direct=True, sector_size=self.setup.sector_size)
        return FileDisk(self._path, self.setup.read_only, sector_size=self.setup.sector_size)

    def _grant_all(self) -> None:
        world = self.guest.world
        for at in range(NR_GOOD):
            world.set_entry(FIRST_GOOD + at, GTF_PERMIT_ACCESS, 0, 1 + at % NR_DATA_FRAMES)
        for at in range(NR_TABLES):
            world.set_entry(FIRST_TABLE + at, GTF_PERMIT_ACCESS, 0, 1 + NR_DATA_FRAMES + at)
        for at in range(10):
            world.set_entry(READONLY + at, GTF_PERMIT_ACCESS | GTF_READONLY, 0, 1 + at)
        for at in range(5):
            world.set_entry(FOREIGN + at, GTF_PERMIT_ACCESS, 9, 1 + at)
            world.set_entry(BAD_FRAME + at, GTF_PERMIT_ACCESS, 0, 64 + at)

    def drop_cache(self) -> None:
        """Let the kernel forget what it knows of the file, so that reads have to wait."""
        if self.setup.disk == "file" and isinstance(self.disk, FileDisk):
            self.disk.flush()
            os.posix_fadvise(self.disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def content(self) -> bytes:
        """What the disk holds."""
        return bytes(self.disk.memory) if isinstance(self.disk, MemoryDisk) else self._path.read_bytes()

    def memory(self) -> bytes:
        """All that the guest has, its grant table too."""
        return bytes(self.guest.world.memory)

    def close(self) -> None:
        """Close the engine, once."""
        if not self._closed:
            self._closed = True
            self._server.close()

    def end(self) -> None:
        """Close what is left."""
        self.close()
        self.disk.close()
        self.guest.close()


class PythonTwin(Twin):
    """The specification."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        super().__init__(setup, folder, "python")
        nr_records = setup.records_per_page << setup.page_order
        self._records = ChargedRecords(nr_records, self.charges if setup.charged else None)
        self._access = self._make_access()
        guest = self.guest
        self._engine = PythonEngine(
            guest.back,
            guest.abi,
            self.disk,
            self._access,
            self.counters,
            self._records,
            max_indirect_segments=setup.max_indirect_segments,
            unsupported=self.unsupported.append,
        )
        self._server = PythonServer(self._engine, self._access, guest.channel, self._records)

    def _make_access(self) -> DataAccess:
        guest, setup = self.guest, self.setup
        if setup.grant_copy:
            return CopiedAccess(guest.mapper, guest.world.domain, self.counters)
        grants = PersistentGrants(
            guest.mapper,
            guest.world.domain,
            persistent=setup.persistent,
            max_persistent_grants=setup.limit,
            counters=self.counters,
            unused_timeout_s=setup.unused_s,
            overflowed=self.overflowed,
        )
        return MappedAccess(grants, self.parameters, now=lambda: self.now_s)

    def serve(self) -> None:
        notify, _ = self._engine.serve_batch()
        if notify:
            self.guest.channel.notify()

    def purge(self) -> None:
        self._access.purge()

    def charge(self, user_id: int) -> bool:
        return self._server.charge(user_id)


class NativeTwin(Twin):
    """The same in C."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        super().__init__(setup, folder, "native")
        guest = self.guest
        self._server = NativeServer(
            guest.back,
            self.disk,
            guest.mapper,
            guest.world.domain,
            guest.channel,
            self.counters,
            self.parameters,
            persistent=setup.persistent and not setup.grant_copy,
            overflowed=self.overflowed,
            charging=self.charges if setup.charged else None,
            unsupported=self.unsupported.append,
        )

    def serve(self) -> None:
        self._server.serve_batch(self.now_s * 10**9)

    def purge(self) -> None:
        self._server.purge(self.now_s * 10**9)

    def charge(self, user_id: int) -> bool:
        return self._server.charge(user_id)
