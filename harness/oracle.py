"""The model disk: what every block must hold, so that each read can be checked.

Writing is cheap: the content of a block is a window into one buffer of seeded random bytes, behind a header.

    | seed, 8 bytes | block number, 8 | version, 8 | random bytes from a place that depends on block and version |

The header says whose content it is, and the window makes a page of another block, or of this block's past, differ too.
A block is at version 0 until it is written, and holds what the disk held at the start: that is known by its checksum,
or it is whatever the first read of the block finds.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from xenblk.errors import XenblkError

_HEADER: Final = struct.Struct("<QQQ")
_MASK: Final = (1 << 64) - 1
_NR_WINDOWS: Final = 1 << 16


class Readable(Protocol):
    """A disk that can be read past the ring."""

    def pread(self, count: int, offset: int, /) -> bytes: ...


Initial = Readable | Literal["zeros", "unknown", "written"]
"""What a disk holds at the start: what can be read past the ring before; zeros; whatever the first read of a block
finds; or what a job with the same seed and bs left that wrote each block once."""

Checksums = Callable[[int], int | None]
"""A block's number to the checksum of its content at the start, or to None."""


class VerifyError(XenblkError):
    """A block does not hold what was last written to it."""


class Oracle:
    """What blocks of `bs` bytes must hold. `initial(block)` is the CRC-32 of a block at the start, None if unknown;
    without it the disk starts as zeros. `first_version` 1: all blocks were written once with this seed.

    No block may be in two operations at a time. A lost write cannot be told from a good one on a disk that a run with
    the same seed has written before.
    """

    def __init__(self, seed: int, bs: int, initial: Checksums | None = None, first_version: int = 0) -> None:
        self.seed = seed
        self.bs = bs
        zeros = zlib.crc32(bytes(bs))
        self._initial = initial or (lambda _block: zeros)
        self._found_first: dict[int, int] = {}
        self._random = random.Random(seed).randbytes(bs + _NR_WINDOWS)
        self._versions: dict[int, int] = {}
        self._first_version = first_version

    def write(self, block: int, buffer: memoryview) -> None:
        """Fill `buffer`, of `bs` bytes, with the block's next version; from now on the block must hold it."""
        version = self._versions.get(block, self._first_version) + 1
        self._versions[block] = version
        buffer[:] = self._content(block, version)

    def check(self, block: int, buffer: memoryview) -> None:
        """VerifyError, a sentence, unless `buffer` is what the block must hold."""
        version = self._versions.setdefault(block, self._first_version)
        if version == 0:
            self._check_initial(block, zlib.crc32(buffer))
            return
        # As bytes: comparing a memoryview goes byte by byte through Python's type codes, forty times slower.
        found = bytes(buffer)
        expected = self._content(block, version)
        if found != expected:
            place = next(i for i in range(self.bs) if expected[i] != found[i])
            whose = f"{self._whose(found)}; the first wrong byte is {place} of {self.bs}"
            raise self._complaint(block, version, zlib.crc32(expected), zlib.crc32(found), whose)

    def _check_initial(self, block: int, found: int) -> None:
        expected = self._found_first.get(block)
        if expected is None:
            expected = self._initial(block)
        if expected is None:
            self._found_first[block] = found
        elif expected != found:
            raise self._complaint(block, 0, expected, found)

    def touched(self) -> Iterator[int]:
        """The blocks that were written or checked so far, in the order of their first use."""
        return iter(tuple(self._versions))

    def _content(self, block: int, version: int) -> bytes:
        # Odd factors: consecutive versions, and neighbouring blocks, never share a window.
        start = (block * 0x9E37 + version * 0x79B9) % _NR_WINDOWS
        header = _HEADER.pack(self.seed & _MASK, block, version)
        return header + self._random[start + _HEADER.size : start + self.bs]

    def _complaint(self, block: int, version: int, expected: int, found: int, detail: str = "") -> VerifyError:
        return VerifyError(
            f"block {block} at offset {block * self.bs} must hold version {version} with checksum "
            f"{expected:#010x}, found {found:#010x}{detail}; seed {self.seed}"
        )

    def _whose(self, found: bytes) -> str:
        seed, block, version = _HEADER.unpack_from(found)
        if seed != self.seed & _MASK or block not in self._versions:
            return ""
        return f" under the header of block {block}, version {version}"
