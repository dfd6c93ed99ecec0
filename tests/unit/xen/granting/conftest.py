"""A gntalloc that is a memory file: it allocates and refuses as Linux does, and mmap is the kernel's own."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.xen.memory import XenMemory
from xenblk.xen.table import XenGrantTable

NR_PAGES = 4096
FIRST_REF = 700


class FakeGntalloc:
    """`grants` has domid and whether it is writable, by reference; `limit` is the module's parameter."""

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        self.nr_allocs = self.nr_deallocs = 0
        self.grants: dict[int, tuple[int, bool]] = {}
        self._next = 0
        self.fd = os.memfd_create("gntalloc")
        os.truncate(self.fd, NR_PAGES * PAGE_SIZE)
        self._map = mmap.mmap(self.fd, NR_PAGES * PAGE_SIZE)
        self.calls = ffi.new("struct xb_gntalloc_calls *", lib.xb_gntalloc_kernel()[0])
        self._control = ffi.callback("int(int, unsigned long, void *)", self._ioctl)
        self.calls.control = self._control

    def _ioctl(self, _fd: int, request: int, argument: Any) -> int:
        if request == lib.XB_GNTALLOC_ALLOC_GREF:
            return self._alloc(ffi.cast("struct xb_gntalloc_alloc *", argument))
        assert request == lib.XB_GNTALLOC_DEALLOC_GREF
        return self._dealloc(ffi.cast("struct xb_gntalloc_dealloc *", argument))

    def _alloc(self, op: Any) -> int:
        if len(self.grants) + op.count > self.limit:
            ffi.errno = errno.ENOSPC
            return -1
        self.nr_allocs += 1
        op.index = self._next * PAGE_SIZE
        refs = ffi.addressof(op, "ref")
        for i in range(op.count):
            refs[i] = FIRST_REF + self._next + i
            self.grants[refs[i]] = op.domid, bool(op.flags & lib.XB_GNTALLOC_WRITABLE)
        self._next += op.count
        assert self._next <= NR_PAGES, "the double's file is used up"
        return 0

    def _dealloc(self, op: Any) -> int:
        first = FIRST_REF + op.index // PAGE_SIZE
        if any(ref not in self.grants for ref in range(first, first + op.count)):
            ffi.errno = errno.EINVAL
            return -1
        self.nr_deallocs += 1
        for ref in range(first, first + op.count):
            del self.grants[ref]
        return 0

    def page(self, ref: int) -> memoryview:
        """What the domain sees that it is granted to."""
        assert ref in self.grants, f"reference {ref} grants nothing"
        at = (ref - FIRST_REF) * PAGE_SIZE
        return memoryview(self._map)[at : at + PAGE_SIZE]


class XenDomain:
    """A device, the memory that is granted through it, and the grant table."""

    def __init__(self, limit: int = 1024, nr_frames: int = 2048) -> None:
        self.device = FakeGntalloc(limit)
        self.memory = XenMemory(self.device.fd, nr_frames=nr_frames, calls=self.device.calls)
        self.table = XenGrantTable(self.memory)


@pytest.fixture
def domain_of() -> Iterator[Callable[..., XenDomain]]:
    """Makes domains."""
    domains: list[XenDomain] = []

    def make(**options: int) -> XenDomain:
        domains.append(XenDomain(**options))
        return domains[-1]

    yield make
    for domain in domains:
        domain.memory.close()
