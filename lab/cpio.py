"""Archives that Linux unpacks into its first root file system: cpio, format newc, everything owned by root.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 4


class Archive:
    """One archive, written to `file` as things are added. Folders come before what is in them, and close() last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0

    def close(self) -> None:
        """Write the end mark. The file stays open: another archive may follow."""
        self._entry("TRAILER!!!", 0, b"")

    def folder(self, name: str, permissions: int = 0o755) -> None:
        """An empty folder."""
        self._entry(name, stat.S_IFDIR | permissions, b"")

    def file(self, name: str, content: bytes, permissions: int = 0o644) -> None:
        """A file."""
        self._entry(name, stat.S_IFREG | permissions, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        """A device that must be there before devtmpfs is."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def tree(self, root: Path, at: str = "", wanted: Callable[[str], bool] = lambda name: True) -> None:
        """All that is in the folder `root`, put under the folder `at`, but what has a name that is not wanted."""
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            name = f"{at}/{entry.name}".lstrip("/")
            if not wanted(name):
                continue
            permissions = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
            if entry.is_symlink():
                self.link(name, os.readlink(entry.path))
            elif entry.is_dir():
                self.folder(name, permissions)
                self.tree(Path(entry.path), name, wanted)
            elif entry.is_file():
                self.file(name, Path(entry.path).read_bytes(), permissions)

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._file.write(_padded(header + path))
        self._file.write(_padded(content))


def _padded(chunk: bytes) -> bytes:
    return chunk + bytes(-len(chunk) % ALIGNMENT)
