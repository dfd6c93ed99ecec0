"""Tables in shared memory as arrays of C structs.

ffi.from_buffer of a memoryview must not live long: when a reference cycle holds both, Python 3.11's garbage collector
clears the memoryview first and crashes on what is left of it. So the address is taken once, and a view of our own keeps
the memory where it is.
"""

from typing import Any

from xenblk._native import ffi


class Entries:
    """`memory` as an array of `struct`: `first` points to its first entry until `close`."""

    def __init__(self, struct: str, memory: memoryview) -> None:
        self._memory = memory[:]
        with ffi.from_buffer(memory, require_writable=True) as buffer:
            self.first: Any = ffi.cast(f"struct {struct} *", buffer)
        self.nr_entries = memory.nbytes // ffi.sizeof(f"struct {struct}")

    def close(self) -> None:
        """Let the memory go."""
        self._memory.release()
