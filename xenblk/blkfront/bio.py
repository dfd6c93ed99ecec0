"""What a user of a virtual disk submits, and the ring requests that it is split into."""

import dataclasses

from xenblk.abi import SECTOR_SIZE
from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError


@dataclasses.dataclass(eq=False, slots=True)
class Bio:
    """One operation on the disk: `offset` in bytes, `buffer` to read into or write from.

    A flush and a discard have no buffer; a discard is of `nr_bytes`, and erases if it is `secure`. A barrier is a write
    before which all earlier writes are durable; it is itself after the next flush (io/blkif.h). A barrier or a discard
    that the backend does not offer, or refuses, ends with EOPNOTSUPP; a flush that it does not offer is done at once.

    The buffer belongs to the frontend from `submit` until `poll` returns the bio; then `error` is None or says why.
    """

    op: BlkifOp
    offset: int
    buffer: memoryview | None
    error: OSError | None = None
    pieces_left: int = 1
    nr_bytes: int = 0
    secure: bool = False


def checked_bio(op: BlkifOp, offset: int, buffer: memoryview | None, nr_bytes: int, secure: bool, size: int) -> Bio:
    """A bio that a disk of `size` bytes could serve, or UsageError."""
    length = nr_bytes if buffer is None else buffer.nbytes
    if op == BlkifOp.READ and buffer is not None and buffer.readonly:
        raise UsageError("a read needs a buffer that can be written")
    if (op == BlkifOp.DISCARD) != (nr_bytes > 0) or (nr_bytes > 0 and buffer is not None):
        raise UsageError(f"a discard, and nothing else, has a length and no buffer: {op.name} of {nr_bytes} bytes")
    if (op == BlkifOp.FLUSH_DISKCACHE) != (length == 0):
        raise UsageError(f"a read or write carries data and a flush none: {op.name} with {length} bytes")
    if op == BlkifOp.INDIRECT:
        raise UsageError("whether a request is indirect is the engine's choice, not an operation to ask for")
    if offset % SECTOR_SIZE or length % SECTOR_SIZE:
        raise UsageError(f"offset {offset} and length {length} must be multiples of {SECTOR_SIZE} bytes")
    if not 0 <= offset <= size - length:
        raise UsageError(f"{length} bytes at {offset} are outside the disk of {size} bytes")
    return Bio(op, offset, None if buffer is None else buffer.cast("B"), nr_bytes=nr_bytes, secure=secure)


@dataclasses.dataclass(eq=False, slots=True)
class Piece:
    """The part of a bio that one ring request carries."""

    bio: Bio
    offset: int
    buffer: memoryview | None
