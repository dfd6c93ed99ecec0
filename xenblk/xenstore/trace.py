"""Every message in a file that people can read, line by line as `xenstored -T` writes them.

    CREATE connection 0x1
    IN 0x1 20260131 12:00:00 WRITE (/a value)
    OUT 0x1 20260131 12:00:00 WRITE (OK )
    DESTROY connection 0x1

A NUL is a blank; other bytes that are not printable ASCII are written as \\xNN, so that no client can forge a line.
"""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from xenblk.xenstore.wire import XsMsgType

if TYPE_CHECKING:
    from xenblk.xenstore.session import Session

_NAMES: Final = {kind.value: kind.name for kind in XsMsgType}
_UNPRINTABLE: Final = re.compile(rb"[^\x20-\x7e]")


class Trace:
    """A trace file, which may be closed and opened again. OSError as open(2) has it; lines are lost on a full disk."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.active = False
        """Whether anything is written: who has much to say may ask first."""
        if path is not None:
            self.open()

    def open(self, path: Path | None = None) -> None:
        """Write to `path`, or again to where it was written before; nothing happens without either."""
        path = path or self._path
        if path is not None:
            file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
            self.close()
            self._path, self._file, self.active = path, file, True
            self.note("***")

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            file, self._file, self.active = self._file, None, False
            with contextlib.suppress(OSError):
                file.close()

    def note(self, line: str) -> None:
        """One line."""
        if self._file is not None:
            self._write(_UNPRINTABLE.sub(_escape, line.encode("latin-1", "backslashreplace")))

    def report(self, text: str, path: Path | None) -> None:
        """Append lines to a file, or to the trace, which must have been one; OSError otherwise."""
        path = path or self._path
        if path is None:
            raise FileNotFoundError("no trace file")
        with path.open("a") as file:
            file.write(text)

    def message(self, session: "Session", direction: str, kind: int, payload: bytes) -> None:
        """A message that came IN or goes OUT."""
        if self._file is not None:
            text = _UNPRINTABLE.sub(_escape, payload)
            stamp, name = time.strftime("%Y%m%d %H:%M:%S"), _NAMES.get(kind, "**UNKNOWN**")
            self._write(f"{direction} {session.number:#x} {stamp} {name} (".encode() + text + b")")

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        with contextlib.suppress(OSError):
            self._file.write(line + b"\n")
            self._file.flush()


def _escape(match: re.Match[bytes]) -> bytes:
    return b" " if match[0] == b"\0" else b"\\x%02x" % match[0][0]
