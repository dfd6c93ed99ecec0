"""The memory of a domain of real Xen that can be granted: pages of this process that Linux grants (gntalloc.h)."""

import contextlib
import errno
import itertools
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.grants import PagedMemory

LIMIT: Final = Path("/sys/module/xen_gntalloc/parameters/limit")
NR_FRAMES: Final = 65536
"""Addresses, not memory: a page that was never used takes none."""

_log = logging.getLogger(__name__)


class XenMemory(PagedMemory):
    """`nr_frames` pages of this process, which the kernel grants as XenGrantTable asks for it.

    A page that was granted stays so until it is freed, and whoever it was granted to may use it until then. `fd` is a
    descriptor of gntalloc, closed with the memory. `native` is a `struct xb_gntalloc`; `calls`, one of its tables,
    takes the kernel's place.
    """

    def __init__(self, fd: int, *, nr_frames: int = NR_FRAMES, calls: Any = None) -> None:
        self._fd = fd
        super().__init__(mmap.mmap(-1, nr_frames * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._calls = lib.xb_gntalloc_kernel() if calls is None else calls
        self._frames = ffi.new("struct xb_gntalloc_frame[]", nr_frames)
        self.native: Any = ffi.new("struct xb_gntalloc *")
        memory = ffi.cast("uint8_t *", self._base)
        lib.xb_gntalloc_init(self.native, self._calls, self._fd, memory, self._frames, nr_frames)

    @property
    def granted_pages(self) -> int:
        """Pages that are granted now."""
        return lib.xb_gntalloc_nr_granted(self.native)

    def _take_back(self, frames: Sequence[int]) -> list[int]:
        taken: list[int] = []
        for first, count in _runs(sorted(frames)) if self._fd >= 0 else ():
            if lib.xb_gntalloc_release(self.native, first, count):
                taken += range(first, first + count)
            else:
                _log.warning(
                    "%d pages cannot be given back, and are not used again: this process has too many mappings", count
                )
        return taken

    def why_not(self, count: int) -> str:
        """Why the last grant failed, of `count` pages."""
        number = int(self.native.error)
        if number == errno.ENOSPC:
            return (
                f"{count} pages more cannot be granted: all processes together may have {_limit()} ({LIMIT}), "
                f"this one has {self.granted_pages}"
            )
        if number == errno.EBUSY:
            return "a page that is granted to one domain cannot be granted to another, or otherwise, before it is freed"
        if number == errno.EFAULT:
            return f"a frame is not one of the {self._nr_frames} that this domain can grant"
        return f"the kernel did not grant {count} pages: {os.strerror(number)}"

    def close(self) -> None:
        """End all grants and unmap it all; of pages that there are views of, with the last of these."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _runs(frames: list[int]) -> Iterator[tuple[int, int]]:
    """First and number of frames that follow each other, in frames that rise."""
    for _, run in itertools.groupby(enumerate(frames), lambda numbered: numbered[1] - numbered[0]):
        members = [frame for _, frame in run]
        yield members[0], len(members)


def _limit() -> str:
    with contextlib.suppress(OSError):
        return LIMIT.read_text().strip()
    return "a limited number"
