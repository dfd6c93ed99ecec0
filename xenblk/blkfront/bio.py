"""What a user of a virtual disk submits, and the ring requests that it is split into."""

import dataclasses

from xenblk.blkif import BlkifOp


@dataclasses.dataclass(eq=False, slots=True)
class Bio:
    """One operation on the disk: `offset` in bytes, `buffer` to read into or write from (None for a flush).

    The buffer belongs to the frontend from `submit` until `poll` returns the bio; then `error` is None or says why.
    """

    op: BlkifOp
    offset: int
    buffer: memoryview | None
    error: OSError | None = None
    pieces_left: int = 1


@dataclasses.dataclass(eq=False, slots=True)
class Piece:
    """The part of a bio that one ring request carries."""

    bio: Bio
    offset: int
    buffer: memoryview | None
