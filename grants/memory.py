"""The memory of a domain, as its kernel sees it: every frame mapped, pages handed out zeroed."""

import contextlib
import mmap
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from xenblk._native import ffi
from xenblk.abi import PAGE_SIZE
from xenblk.errors import UsageError
from xenblk.grants.pool import Page


class PagedMemory:
    """Pages of a mapping whose first `reserved_frames` frames are never handed out.

    Pages are zeroed when they are allocated, not when they are freed: what a page held before must not reach the
    domain that it is granted to next (XSA-403).
    """

    def __init__(self, mapping: mmap.mmap, reserved_frames: int = 0) -> None:
        self._map = mapping
        self._view = memoryview(mapping)
        self._base = int(ffi.cast("uintptr_t", ffi.from_buffer(mapping)))
        self._reserved_frames = reserved_frames
        self._nr_frames = len(mapping) // PAGE_SIZE
        self._next_frame = reserved_frames
        self._free: list[int] = []
        self._dirty: set[int] = set()
        self._lock = threading.Lock()

    def allocate_page(self) -> Page:
        """One zeroed page; UsageError when the domain's memory is used up."""
        return self.allocate_pages(1)[0]

    def allocate_pages(self, count: int) -> list[Page]:
        """So many zeroed pages, or none: UsageError."""
        with self._lock:
            nr_reused = min(count, len(self._free))
            first = self._grow(count - nr_reused)
            reused = [self._free.pop() for _ in range(nr_reused)]
        return [self._page(frame) for frame in (*reused, *range(first, first + count - nr_reused))]

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
        self.free_pages([page])

    def free_pages(self, pages: Iterable[Page]) -> None:
        """Take pages back, in any order; nobody may map them any more."""
        frames = []
        for page in pages:
            page.view.release()
            frames.append(page.frame)
        reusable = self._take_back(frames)
        with self._lock:
            # The last is handed out first: what is given back in order, is given out in order.
            self._free.extend(reversed(reusable))

    def _take_back(self, frames: Sequence[int]) -> Sequence[int]:
        """Those of frames that are free now that nobody else can touch, so that they may be handed out again."""
        return frames

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
        """Unmap it all; if views of pages are about, with the last of them."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()
