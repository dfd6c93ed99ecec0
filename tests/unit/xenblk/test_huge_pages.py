"""Memory for disks: zeroed, private, at a huge page's boundary, and on huge pages if the system gives any."""

import errno
import mmap
import os
from pathlib import Path

import pytest

from xenblk import huge_pages
from xenblk._native import ffi
from xenblk.disk import MemoryDisk, open_disk
from xenblk.huge_pages import HUGE_PAGE_SIZE, allocate, huge_bytes

SIZE = 8 * HUGE_PAGE_SIZE
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class RefusingMmap(mmap.mmap):
    """A kernel that was built without huge pages."""

    def madvise(self, *_arguments: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("size", [512, 4096, HUGE_PAGE_SIZE - 512, HUGE_PAGE_SIZE, HUGE_PAGE_SIZE + 512, SIZE])
def test_memory_is_zeroed_and_aligned(size: int) -> None:
    memory = allocate(size)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    assert address % (HUGE_PAGE_SIZE if size >= HUGE_PAGE_SIZE else mmap.PAGESIZE) == 0
    assert (memory.nbytes, memory.readonly, memory.format) == (size, False, "B")
    assert bytes(memory) == bytes(size)
    memory[0] = memory[-1] = 0xFF
    assert memory[0] + memory[-1] == 2 * 0xFF


def test_memory_is_private() -> None:
    memory = allocate(SIZE)
    child = os.fork()
    if child == 0:
        memory[0] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert memory[0] == 0


def test_disk_on_huge_pages() -> None:
    disk = open_disk(f"memory:{SIZE}", direct=True)
    assert isinstance(disk, MemoryDisk)
    before = disk.huge  # the kernel may have put it behind memory of another disk, and tells of both at once
    disk.pwrite(b"\x55" * SIZE, 0)
    offered = ENABLED.exists() and "[never]" not in ENABLED.read_text()
    assert disk.huge > before if offered else disk.huge == before


def test_system_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.mmap, "mmap", RefusingMmap)
    memory = allocate(SIZE)
    memory[:] = b"\x55" * SIZE
    assert bytes(memory) == b"\x55" * SIZE
    monkeypatch.setattr(Path, "read_text", lambda _path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
    assert huge_bytes(memory) == 0
