"""The memory of an emulated domain: a file that its mappers map, too."""

import contextlib
import mmap

from xenblk.abi import PAGE_SIZE
from xenblk.grants import PagedMemory


class DomainMemory(PagedMemory):
    """Pages of a memory file whose first `reserved_frames` frames are the grant table."""

    def __init__(self, fd: int, nr_frames: int, reserved_frames: int) -> None:
        mapping = mmap.mmap(fd, nr_frames * PAGE_SIZE)
        with contextlib.suppress(OSError):  # huge pages where the system has them for shared memory
            mapping.madvise(mmap.MADV_HUGEPAGE)
        super().__init__(mapping, reserved_frames)

    def grant_frames(self) -> memoryview:
        """The pages of the grant table."""
        return self._view[: self._reserved_frames * PAGE_SIZE]
