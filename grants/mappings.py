"""How many granted pages a process may have mapped at a time.

Linux allows a process vm.max_map_count mappings (Documentation/admin-guide/sysctl/vm.rst), 65530 by default, and counts
a stretch of addresses of one kind as one. A granted page makes two of the one that it is mapped into: itself, and the
reserved addresses behind it. Where all are in use nothing can be unmapped any more, because unmapping one of several
pages in a row splits a mapping. So granted pages get what is left by a share for everything else: libraries, threads,
memory, rings.
"""

from pathlib import Path
from typing import Final

MAPPINGS_PER_PAGE: Final = 2
SHARE_OF_OTHERS: Final = 8
"""One of so many mappings is kept for everything else."""

MAX_MAP_COUNT_DEFAULT: Final = 65530

_MAX_MAP_COUNT: Final = Path("/proc/sys/vm/max_map_count")


def max_mapped_pages() -> int:
    """Pages that this process may have mapped at a time: 28669 unless the system was told to allow more or less."""
    allowed = _max_map_count()
    return max(1, (allowed - allowed // SHARE_OF_OTHERS) // MAPPINGS_PER_PAGE)


def _max_map_count() -> int:
    try:
        return int(_MAX_MAP_COUNT.read_text())
    except (OSError, ValueError):
        return MAX_MAP_COUNT_DEFAULT
