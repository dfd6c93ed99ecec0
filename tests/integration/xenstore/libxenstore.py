"""Xen's own client library as a program: one handle, calls on standard input, answers on standard output, both pickled.

So a call that never returns harms nobody but this program. Source: xenstore.h and xenstore_lib.h of Xen 4.17.
"""

import ctypes
import errno
import pickle
import select
import sys
from typing import Any


class Permissions(ctypes.Structure):
    """struct xs_permissions, of xenstore_lib.h."""

    _fields_ = [("id", ctypes.c_uint), ("perms", ctypes.c_uint)]


class Library:
    """One handle. Calls return what C does, as a copy; where it says that it failed, the name of errno, or False."""

    POINTERS = ("open", "read", "directory", "get_permissions", "get_domain_path", "read_watch", "check_watch")
    POINTERS += ("control_command",)
    NUMBERS = ("fileno", "transaction_start")

    def __init__(self) -> None:
        self._c = ctypes.CDLL("libxenstore.so.4", use_errno=True)
        for name in self.POINTERS:
            getattr(self._c, f"xs_{name}").restype = ctypes.c_void_p
        self._libc = ctypes.CDLL(None)
        self._libc.free.argtypes = [ctypes.c_void_p]
        self._handle = ctypes.c_void_p(self._call("open", ctypes.c_ulong(0), handle=False))

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> Any:
        function = getattr(self._c, f"xs_{name}")
        if name not in self.POINTERS + self.NUMBERS:
            function.restype = ctypes.c_bool
        ctypes.set_errno(0)
        result = function(*([self._handle] if handle else []), *arguments)
        return result or errno.errorcode.get(ctypes.get_errno(), False)

    def _strings(self, pointer: Any, count: int) -> Any:
        if isinstance(pointer, str):
            return pointer
        strings = [ctypes.string_at(s) for s in (ctypes.c_void_p * count).from_address(pointer)]
        self._libc.free(pointer)
        return strings

    def read(self, path: bytes, tx: int = 0) -> Any:
        length = ctypes.c_uint()
        pointer = self._call("read", tx, path, ctypes.byref(length))
        if isinstance(pointer, str):
            return pointer
        value = ctypes.string_at(pointer, length.value + 1)
        self._libc.free(pointer)
        assert value.endswith(b"\0")
        return value[:-1]

    def write(self, path: bytes, value: bytes, tx: int = 0) -> Any:
        return self._call("write", tx, path, value, len(value))

    def directory(self, path: bytes, tx: int = 0) -> Any:
        count = ctypes.c_uint()
        return self._strings(self._call("directory", tx, path, ctypes.byref(count)), count.value)

    def mkdir(self, path: bytes, tx: int = 0) -> Any:
        return self._call("mkdir", tx, path)

    def rm(self, path: bytes, tx: int = 0) -> Any:
        return self._call("rm", tx, path)

    def get_permissions(self, path: bytes, tx: int = 0) -> Any:
        count = ctypes.c_uint()
        pointer = self._call("get_permissions", tx, path, ctypes.byref(count))
        if isinstance(pointer, str):
            return pointer
        perms = [(entry.id, entry.perms) for entry in (Permissions * count.value).from_address(pointer)]
        self._libc.free(pointer)
        return perms

    def set_permissions(self, path: bytes, perms: list[tuple[int, int]], tx: int = 0) -> Any:
        return self._call("set_permissions", tx, path, (Permissions * len(perms))(*perms), len(perms))

    def watch(self, path: bytes, token: bytes) -> Any:
        return self._call("watch", path, token)

    def unwatch(self, path: bytes, token: bytes) -> Any:
        return self._call("unwatch", path, token)

    def read_watch(self) -> Any:
        count = ctypes.c_uint()
        event = self._strings(self._call("read_watch", ctypes.byref(count)), 2)
        assert isinstance(event, str) or count.value == 2
        return event

    def check_watch(self) -> Any:
        return self._strings(self._call("check_watch"), 2)

    def readable(self, timeout_s: float) -> bool:
        """Whether xs_fileno says that there is an event."""
        return bool(select.select([self._call("fileno")], [], [], timeout_s)[0])

    def transaction_start(self) -> Any:
        return self._call("transaction_start")

    def transaction_end(self, tx: int, abort: bool = False) -> Any:
        return self._call("transaction_end", tx, ctypes.c_bool(abort))

    def get_domain_path(self, domid: int) -> Any:
        pointer = self._call("get_domain_path", domid)
        return pointer if isinstance(pointer, str) else self._text(pointer)

    def control_command(self, command: bytes, data: bytes) -> Any:
        pointer = self._call("control_command", command, data, len(data))
        return pointer if isinstance(pointer, str) else self._text(pointer)

    def _text(self, pointer: int) -> bytes:
        text = ctypes.string_at(pointer)
        self._libc.free(pointer)
        return text

    def is_domain_introduced(self, domid: int) -> Any:
        return self._call("is_domain_introduced", domid)

    def introduce_domain(self, domid: int, mfn: int, port: int) -> Any:
        return self._call("introduce_domain", domid, ctypes.c_ulong(mfn), port)

    def release_domain(self, domid: int) -> Any:
        return self._call("release_domain", domid)

    def resume_domain(self, domid: int) -> Any:
        return self._call("resume_domain", domid)

    def set_target(self, domid: int, target: int) -> Any:
        return self._call("set_target", domid, target)

    def close(self) -> None:
        self._c.xs_close(self._handle)


def serve() -> None:
    library = Library()
    name = ""
    while name != "close":
        name, arguments = pickle.load(sys.stdin.buffer)
        pickle.dump(getattr(library, name)(*arguments), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
