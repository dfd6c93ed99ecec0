"""A granting domain and mappers on plain memory files, as the host would set them up."""

import mmap
import os
from collections.abc import Iterable

from xenblk.abi import PAGE_SIZE, Domid
from xenblk.errors import UsageError
from xenblk.grants import (
    ACTIVE_ENTRY_BYTES,
    MAPTRACK_ENTRY_BYTES,
    GnttabDomain,
    GnttabMapper,
    GrantMapper,
    GrantTableV1,
    Page,
    pins,
    release_dead,
)

GRANT_ENTRY = 8
READING, WRITING = 8, 16
MAPTRACK_ENTRIES = 512


class World:
    """One granting domain, number 7; mappers of domain 0 with owners 1, 2, ... Frame 0 is the grant table."""

    backend = Domid(0)

    def __init__(self, nr_frames: int = 64, nr_entries: int = 512) -> None:
        self.nr_frames = nr_frames
        self.memory_fd = os.memfd_create("memory")
        os.truncate(self.memory_fd, nr_frames * PAGE_SIZE)
        self.active_fd = os.memfd_create("active")
        os.truncate(self.active_fd, nr_entries * ACTIVE_ENTRY_BYTES)
        self.memory = mmap.mmap(self.memory_fd, nr_frames * PAGE_SIZE)
        self.active = mmap.mmap(self.active_fd, nr_entries * ACTIVE_ENTRY_BYTES)
        self.table = GrantTableV1(memoryview(self.memory)[: nr_entries * GRANT_ENTRY])
        self.domain = GnttabDomain(
            Domid(7),
            1,
            self.memory_fd,
            nr_frames,
            memoryview(self.memory)[: nr_entries * GRANT_ENTRY],
            memoryview(self.active),
        )
        self.maptracks: dict[int, mmap.mmap] = {}
        self.maptrack_fds: dict[int, int] = {}
        self.mappers: list[GrantMapper] = []
        self._free_frames = list(range(1, nr_frames))[::-1]

    def maptrack(self, nr_entries: int = MAPTRACK_ENTRIES) -> int:
        """A new owner, with its maptrack."""
        owner = len(self.maptracks) + 1
        fd = os.memfd_create("maptrack")
        os.truncate(fd, nr_entries * MAPTRACK_ENTRY_BYTES)
        self.maptrack_fds[owner] = fd
        self.maptracks[owner] = mmap.mmap(fd, nr_entries * MAPTRACK_ENTRY_BYTES)
        return owner

    def mapper(
        self,
        domid: Domid = backend,
        arena_pages: int = 1024,
        nr_entries: int = MAPTRACK_ENTRIES,
        max_pages: int | None = None,
    ) -> GrantMapper:
        """A new mapping process, so to speak."""
        owner = self.maptrack(nr_entries)
        mapper = GrantMapper(GnttabMapper(owner, domid, memoryview(self.maptracks[owner]), max_pages), arena_pages)
        self.mappers.append(mapper)
        return mapper

    def page(self, frame: int) -> memoryview:
        """A frame as the granting domain sees it."""
        return memoryview(self.memory)[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE]

    def allocate_page(self) -> Page:
        """One zeroed page of the granting domain."""
        frame = self._free_frames.pop()
        view = self.page(frame)
        view[:] = bytes(PAGE_SIZE)
        return Page(frame, view)

    def allocate_pages(self, count: int) -> list[Page]:
        """PageSource's half of the granting domain."""
        if count > self.free_frames:
            raise UsageError(f"{count} pages were asked for, {self.free_frames} are left")
        return [self.allocate_page() for _ in range(count)]

    def free_pages(self, pages: Iterable[Page]) -> None:
        """PageSource's other half."""
        self._free_frames += [page.frame for page in pages]

    @property
    def free_frames(self) -> int:
        """Frames that allocate_page can still give."""
        return len(self._free_frames)

    def flags(self, ref: int) -> int:
        """The flags of a grant entry as they are in memory."""
        return int.from_bytes(self.memory[ref * GRANT_ENTRY : ref * GRANT_ENTRY + 2], "little")

    def set_entry(self, ref: int, flags: int, domid: int, frame: int) -> None:
        """What a granting domain can write that does not use GrantTableV1."""
        entry = flags.to_bytes(2, "little") + domid.to_bytes(2, "little") + frame.to_bytes(4, "little")
        self.memory[ref * GRANT_ENTRY : (ref + 1) * GRANT_ENTRY] = entry

    def pins(self) -> dict[int, tuple[int, int]]:
        """Reads and writes pinned by reference."""
        return pins(memoryview(self.active))

    def grant(self, frame: int = 1, readonly: bool = False) -> int:
        """A reference that lets domain 0 use a frame."""
        return self.table.grant(self.backend, [frame], readonly)[0]

    def release(self, owner: int) -> int:
        """The host's work when an owner dies."""
        others = [memoryview(track) for number, track in self.maptracks.items() if number != owner]
        return release_dead(owner, memoryview(self.maptracks[owner]), [self.domain], others)

    def check(self) -> None:
        """The invariant of gnttab.h, counted anew from all maptracks while no call is in progress."""
        counted: dict[int, list[int]] = {}
        for track in self.maptracks.values():
            words = memoryview(track).cast("I")
            for at in range(0, len(words), 4):
                flags, _, ref, instance = words[at : at + 4]
                if flags and instance == self.domain.instance:
                    assert not flags >> 31, "no call is in progress, but an entry is busy"
                    counted.setdefault(ref, [0, 0])[not flags & 4] += 1
        assert self.pins() == {ref: tuple(numbers) for ref, numbers in counted.items()}
        for ref in range(self.table.nr_entries):
            reads, writes = counted.get(ref, (0, 0))
            mapped = (READING if reads or writes else 0) | (WRITING if writes else 0)
            assert self.flags(ref) & (READING | WRITING) == mapped, f"reference {ref}"
        locks = memoryview(self.active).cast("I")[::4]
        assert not any(locks), "a lock is held, but no call is in progress"
        self.table._check()

    def close(self) -> None:
        """Unmap all, and give every descriptor back."""
        for mapper in self.mappers:
            mapper.close()
        for fd in (self.memory_fd, self.active_fd, *self.maptrack_fds.values()):
            os.close(fd)
