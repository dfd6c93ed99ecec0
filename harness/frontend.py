"""What the harness asks of a frontend; `xenblk.blkfront.Blkfront` has it, as must whatever is to be measured."""

from collections.abc import Sequence
from typing import Protocol

from xenblk.blkif import BlkifOp


class Bio(Protocol):
    """An operation that was submitted; `error` is None or says why it failed, once `poll` returned it."""

    @property
    def op(self) -> BlkifOp: ...
    @property
    def offset(self) -> int: ...
    @property
    def buffer(self) -> memoryview | None: ...
    @property
    def error(self) -> OSError | None: ...


class Frontend(Protocol):
    """A connected disk of `size` bytes, used by one thread; `engine` names what moves the data.

    Bios are told apart by identity, and hashable.
    """

    @property
    def size(self) -> int: ...
    @property
    def engine(self) -> str: ...

    def allocate(self, nbytes: int, /) -> memoryview:
        """Page-aligned memory of the domain, the caller's until `free`."""
        ...

    def free(self, buffer: memoryview, /) -> None:
        """Take memory of `allocate` back; no bio in flight may use it."""
        ...

    def submit(self, op: BlkifOp, offset: int = 0, buffer: memoryview | None = None, /) -> Bio:
        """Queue an operation. The buffer is lent until `poll` returns the bio. OSError if the disk is lost."""
        ...

    def poll(self, timeout_s: float | None, /) -> Sequence[Bio]:
        """Publish what was submitted, wait for a completion, return all there are; none after `timeout_s`."""
        ...
