"""The memory of an emulated domain, as its kernel sees it: every frame mapped, pages handed out zeroed."""

import contextlib
import mmap
import threading
from typing import Any

from xenblk._native import ffi
from xenblk.abi import PAGE_SIZE
from xenblk.errors import UsageError
from xenblk.grants import Page


class DomainMemory:
    """Pages of a memory file whose first `reserved_frames` frames (the grant table) are never handed out.

    Pages are zeroed when they are allocated, not when they are freed: what a page held before must not reach the
    domain that it is granted to next (XSA-403).
    """

    def __init__(self, fd: int, nr_frames: int, reserved_frames: int) -> None:
        self._map = mmap.mmap(fd, nr_frames * PAGE_SIZE)
        with contextlib.suppress(OSError):  # huge pages where the system has them for shared memory
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._map)
        self._base = int(ffi.cast("uintptr_t", ffi.from_buffer(self._map)))
        self._reserved_frames = reserved_frames
        self._nr_frames = nr_frames
        self._next_frame = reserved_frames
        self._free: list[int] = []
        self._dirty: set[int] = set()
        self._lock = threading.Lock()

    def grant_frames(self) -> memoryview:
        """The pages of the grant table."""
        return self._view[: self._reserved_frames * PAGE_SIZE]

    def allocate_page(self) -> Page:
        """One zeroed page; UsageError when the domain's memory is used up."""
        with self._lock:
            frame = self._free.pop() if self._free else self._grow(1)
        return self._page(frame)

    def allocate_run(self, nr_pages: int) -> list[Page]:
        """Zeroed pages at consecutive frames, from memory never used before."""
        with self._lock:
            first = self._run_of_free(nr_pages)
            if first is None:
                first = self._grow(nr_pages)
        return [self._page(frame) for frame in range(first, first + nr_pages)]

    def _run_of_free(self, nr_pages: int) -> int | None:
        free = sorted(self._free)
        for i in range(len(free) - nr_pages + 1):
            if free[i + nr_pages - 1] == free[i] + nr_pages - 1:
                self._free = free[:i] + free[i + nr_pages :]
                return free[i]
        return None

    def _grow(self, nr_pages: int) -> int:
        first = self._next_frame
        if first + nr_pages > self._nr_frames:
            raise UsageError(
                f"the domain's memory is used up: {nr_pages} pages were asked for, "
                f"{self._nr_frames - first} of {self._nr_frames} are left"
            )
        self._next_frame = first + nr_pages
        return first

    def _page(self, frame: int) -> Page:
        view = self._view[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE]
        if frame in self._dirty:
            view[:] = bytes(PAGE_SIZE)
        self._dirty.add(frame)
        return Page(frame, view)

    def free_page(self, page: Page) -> None:
        """Take a page back; nobody may map it any more."""
        page.view.release()
        with self._lock:
            self._free.append(page.frame)

    def join(self, run: list[Page]) -> memoryview:
        """One view over consecutive pages; the caller keeps the pages."""
        first = run[0].frame
        return self._view[first * PAGE_SIZE : (first + len(run)) * PAGE_SIZE]

    @property
    def extent(self) -> tuple[int, int]:
        """Address and bytes of it all."""
        return self._base, self._nr_frames * PAGE_SIZE

    def locate(self, buffer: memoryview) -> tuple[int, int] | None:
        """Frame and offset of a buffer that lies in this memory, None for any other."""
        offset = self._address(buffer) - self._base
        if offset >= 0 and offset + buffer.nbytes <= self._nr_frames * PAGE_SIZE:
            return divmod(offset, PAGE_SIZE)
        return None

    @staticmethod
    def _address(buffer: Any) -> int:
        return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer)))

    def close(self) -> None:
        """Unmap it all, as far as no page is in use any more."""
        self._view.release()
        self._map.close()
