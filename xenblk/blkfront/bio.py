"""What a user of a virtual disk submits, and the ring requests that it is split into."""

import dataclasses

from xenblk.blkif import BlkifOp


@dataclasses.dataclass(eq=False, slots=True)
class Bio:
    """One operation on the disk: `offset` in bytes, `buffer` to read into or write from.

    A flush and a discard have no buffer; a discard is of `nr_bytes`, and erases if it is `secure`. A barrier is a write
    that comes after all that was written before, and is durable when it is done. A barrier or a discard that the
    backend does not offer ends with EOPNOTSUPP.

    The buffer belongs to the frontend from `submit` until `poll` returns the bio; then `error` is None or says why.
    """

    op: BlkifOp
    offset: int
    buffer: memoryview | None
    error: OSError | None = None
    pieces_left: int = 1
    nr_bytes: int = 0
    secure: bool = False


@dataclasses.dataclass(eq=False, slots=True)
class Piece:
    """The part of a bio that one ring request carries."""

    bio: Bio
    offset: int
    buffer: memoryview | None
