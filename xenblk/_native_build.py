"""Builds xenblk._native: cffi reads the C headers as they are, setuptools compiles the sources that pyproject lists.

A header here is its own cdef: plain declarations, no guards, no includes. setuptools loads this file
by its path, so it imports nothing of xenblk.
"""

from pathlib import Path

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext

HEADERS = (
    "ring/sring.h",
    "grants/mapper.h",
    "grants/gnttab.h",
    "grants/arena.h",
    "grants/gref_map.h",
    "grants/slots.h",
    "grants/table.h",
    "grants/table_v1.h",
    "xenblk/blkif.h",
    "xenblk/channel.h",
    "xenblk/discard.h",
    "xenblk/counters.h",
    "xenblk/blkback/mapped_file.h",
    "xenblk/blkback/file.h",
    "xenblk/copying.h",
    "xenblk/copier.h",
    "xenblk/polling.h",
    "xenblk/blkback/journal.h",
    "xenblk/blkback/engine.h",
    "xenblk/blkfront/pool.h",
    "xenblk/blkfront/engine.h",
    "xenblk/emulated/evtchn.h",
    "xenblk/xen/gntdev.h",
    "xenblk/xen/gntalloc.h",
    "xenblk/xen/evtchn.h",
    "xenblk/xenstore/page.h",
    "harness/workload.h",
    "harness/oracle.h",
    "harness/load.h",
)
PREAMBLE = "#include <stdint.h>\n#include <stddef.h>\n" + "".join(f'#include "{h}"\n' for h in HEADERS)


class build_ext(_build_ext):  # type: ignore[misc]  # noqa: N801 - the name setuptools gives the command
    """Adds cffi's glue file to the extension before it is compiled."""

    def build_extension(self, ext: Extension) -> None:
        glue = Path(self.build_temp) / "_native_glue.c"
        glue.parent.mkdir(parents=True, exist_ok=True)
        ffi = FFI()
        for header in HEADERS:
            ffi.cdef(Path(header).read_text())
        ffi.set_source("xenblk._native", PREAMBLE, py_limited_api=True)
        ffi.emit_c_code(str(glue))
        ext.sources = [*ext.sources, str(glue)]
        ext.extra_compile_args = ["-std=gnu11", "-O3", "-flto=auto", "-fvisibility=hidden", "-pthread"]
        ext.extra_link_args = ["-O3", "-flto=auto"]
        super().build_extension(ext)
