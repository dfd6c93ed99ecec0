"""Counters of one end of one ring, in memory that other processes read at any time without stopping anyone.

    offset 0    magic, 8 bytes "xenblkct"
    offset 8    version u64, which names the fields and their order
    offset 16   the fields, u64 each, in the byte order of the machine

One thread writes, with single aligned stores; a reader sees each field as it was at some moment, and fields that
belong together maybe one step apart.
"""

import mmap
import os
from pathlib import Path
from typing import Final

from xenblk.errors import UsageError

_MAGIC: Final = b"xenblkct"
_VERSION: Final = 1
_HEADER: Final = _MAGIC + _VERSION.to_bytes(8, "little")

INTERRUPTS: Final = Path("/proc/interrupts")


class Counters:
    """Counters as attributes: `c.map_pages += 3`. `Counters()` is in private memory, `create` and `open` in a file.

    `fields` is the memory that the attributes read and write, as u64s in the order below.
    """

    map_ops: int
    """Map operations, of one or more grants each."""
    map_pages: int
    """Grants mapped."""
    unmap_ops: int
    """Unmap operations."""
    unmap_pages: int
    """Grants unmapped; map_pages less this is what is mapped now."""
    copy_ops: int
    """Grant copy operations, of one or more segments each."""
    copy_pages: int
    """Segments copied."""
    persistent_hits: int
    """Segments whose grant was found mapped."""
    persistent_misses: int
    """Segments whose grant was not, while persistent grants were negotiated."""
    persistent_overflow: int
    """Grants not kept because the limit was reached."""
    persistent_purged: int
    """Kept grants unmapped to make room or because of their age."""
    persistent_current: int
    """Grants kept now."""
    persistent_peak: int
    """The most that were ever kept."""
    persistent_in_use: int
    """Kept grants that a request uses now."""
    notify_sent: int
    """Pushes that notified the peer."""
    notify_held: int
    """Pushes whose notification the event index made unnecessary."""
    rd_req: int
    """Read requests."""
    wr_req: int
    """Write requests."""
    f_req: int
    """Flush and barrier requests."""
    ds_req: int
    """Discard requests."""
    oo_req: int
    """Times that a request stayed on the ring because no request record was free."""
    rd_sect: int
    """Sectors read, 512 bytes each."""
    wr_sect: int
    """Sectors written."""

    def __init__(self, memory: bytearray | mmap.mmap | None = None) -> None:
        self._memory = bytearray(_HEADER) + bytes(8 * len(FIELDS)) if memory is None else memory
        self.fields: Final = memoryview(self._memory)[len(_HEADER) :].cast("Q")

    @classmethod
    def create(cls, path: Path) -> "Counters":
        """Zeroed counters in a new file. FileExistsError if there is one."""
        # Linked only when complete: nobody opens a file without its header.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(_HEADER + bytes(8 * len(FIELDS)))
        try:
            os.link(draft, path)
        finally:
            draft.unlink()
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> "Counters":
        """The counters in a file. UsageError if they are not counters of this version; OSError as open(2) has it."""
        size = len(_HEADER) + 8 * len(FIELDS)
        with path.open("r+b" if writable else "rb") as file:
            header = file.read(len(_HEADER))
            if header != _HEADER or os.fstat(file.fileno()).st_size != size:
                raise UsageError(_refusal(path, header, os.fstat(file.fileno()).st_size))
            return cls(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ))

    def snapshot(self) -> dict[str, int]:
        """All counters by name, each as it is when it is read."""
        return dict(zip(FIELDS, self.fields, strict=True))

    def close_books(self) -> None:
        """Record that the process which counted is dead and its mappings were undone for it."""
        self.unmap_pages = self.map_pages
        self.persistent_current = self.persistent_in_use = 0

    def check(self) -> None:
        """Assert what always holds between two operations of the counting thread."""
        assert self.unmap_pages <= self.map_pages, f"more was unmapped than mapped: {self.snapshot()}"
        assert self.persistent_current <= self.map_pages - self.unmap_pages, (
            f"more is kept than mapped: {self.snapshot()}"
        )
        assert self.persistent_current <= self.persistent_peak, f"the peak is below the present: {self.snapshot()}"
        assert self.persistent_in_use <= self.persistent_current, f"more is in use than kept: {self.snapshot()}"

    def close(self) -> None:
        """Let go of the memory; the counters cannot be read here any more, the file stays."""
        self.fields.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


FIELDS: Final = tuple(Counters.__annotations__)
"""Names of the counters, in the order of the file."""


def _field(at: int) -> property:
    def read(counters: Counters) -> int:
        return counters.fields[at]

    def write(counters: Counters, value: int) -> None:
        counters.fields[at] = value

    return property(read, write)


for _at, _name in enumerate(FIELDS):
    setattr(Counters, _name, _field(_at))


def _refusal(path: Path, header: bytes, size: int) -> str:
    if not header.startswith(_MAGIC):
        return f"{path} is not a file of counters: it starts with {header[: len(_MAGIC)]!r}, not {_MAGIC!r}"
    if header != _HEADER:
        version = int.from_bytes(header[len(_MAGIC) :], "little")
        return f"{path} has counters of version {version}; this xenblk reads version {_VERSION}"
    return f"{path} has {size} bytes; counters of version {_VERSION} have {len(_HEADER) + 8 * len(FIELDS)}"


def tlb_shootdowns(interrupts: Path = INTERRUPTS) -> int | None:
    """TLB shootdowns of the whole machine so far, all CPUs added up; None where the kernel does not count them."""
    try:
        lines = interrupts.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words[:1] == ["TLB:"]:
            return sum(int(word) for word in words[1:] if word.isdecimal())
    return None
