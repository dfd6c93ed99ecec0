"""Private memory on huge pages, where the system allows it: one entry of the TLB for 2 MiB.

The memory is anonymous, and the wish is madvise(MADV_HUGEPAGE) on memory that starts at a multiple of 2 MiB
(Linux's Documentation/admin-guide/mm/transhuge.rst). A system that has no huge pages to give, or gives none, gives
small ones. Whether it did shows in smaps (proc_pid_smaps(5)) once the memory was written.
"""

import contextlib
import mmap
import re
from pathlib import Path
from typing import Final

from xenblk._native import ffi

HUGE_PAGE_SIZE: Final = 2 << 20

_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def allocate(size: int) -> memoryview:
    """`size` bytes of zeroed memory, this process's alone; it goes when nobody uses it any more.

    From 2 MiB on it starts at a multiple of 2 MiB, and more addresses than `size` are taken, not more memory.
    """
    slack = HUGE_PAGE_SIZE if size >= HUGE_PAGE_SIZE else 0
    mapping = mmap.mmap(-1, size + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if not slack:
        return memoryview(mapping)
    with contextlib.suppress(OSError):  # a kernel without them says EINVAL
        mapping.madvise(mmap.MADV_HUGEPAGE)
    start = -_address(mapping) % HUGE_PAGE_SIZE
    return memoryview(mapping)[start : start + size]


def huge_bytes(memory: memoryview) -> int:
    """How many bytes of `memory` stand on huge pages now, as /proc/self/smaps counts them; 0 if it does not say.

    The kernel may show neighbouring memory with the same wish as one mapping with this one: the count is at most the
    size of `memory`, and may then be that of another.
    """
    start, found, inside = _address(memory), 0, False
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if mapping := _MAPPING.match(line):
            inside = int(mapping[1], 16) < start + memory.nbytes and start < int(mapping[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1]) << 10
    return min(found, memory.nbytes)


def _address(memory: mmap.mmap | memoryview) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
