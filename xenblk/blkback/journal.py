"""What a backend leaves behind for the next one: the requests that it took off a ring and did not answer.

journal.h has the rules that make it exact at every moment. The entries are in a file of the run directory, mapped by
the backend that serves the ring, which also holds its lock:

    offset 0    magic, 8 bytes "xenblkjn"; version u64
    offset 16   SHA-256 of how the frontend is reached (`ring_identity`), 32 bytes; 16 bytes of padding
    offset 64   entries, 128 bytes each, as many as the ring has slots

The lock ends with the process, and not before the disk is done with the last operation that this one began: what is
written late must not come after what the next backend writes.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import Domid
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys

_MAGIC: Final = b"xenblkjn" + (1).to_bytes(8, "little")
_HEADER_BYTES: Final = 64
_ENTRY_BYTES: Final = ffi.sizeof("struct xb_journal_entry")


def ring_identity(keys: FrontendKeys, queue: QueueKeys) -> bytes:
    """What tells a ring from the next one of the same disk."""
    return hashlib.sha256(repr((keys.abi.protocol, queue.ring_refs, queue.event_channel)).encode()).digest()


class Journal:
    """Entries in `memory`, private if there is none. A request has one of them, in the Python engine that of its number
    in the batch. `native` is valid until `close`; `fd` is the file's, -1 for none.
    """

    def __init__(self, nr_entries: int, memory: mmap.mmap | None = None, fd: int = -1) -> None:
        self.fd = fd
        self._memory = bytearray(nr_entries * _ENTRY_BYTES) if memory is None else memory
        self._entries = memoryview(self._memory)[-nr_entries * _ENTRY_BYTES :]
        self._nr_entries = nr_entries
        with ffi.from_buffer(self._entries, require_writable=True) as entries:
            self.native: Any = ffi.cast("struct xb_journal_entry *", entries)

    def take(self, number: int, request: bytes, index: int) -> None:
        """The request that was at `index` of the ring is ours."""
        ffi.memmove(self.native[number].slot, request, len(request))
        lib.xb_journal_take(self.native + number, index)

    def answer(self, number: int, position: int) -> None:
        """Its response is about to be put, at `position`."""
        lib.xb_journal_answer(self.native + number, position)

    def forget(self, number: int) -> None:
        """Its response is published."""
        lib.xb_journal_forget(self.native + number)

    def unanswered(self, rsp_prod: int, request_bytes: int) -> list[bytes]:
        """The requests, in the order in which they were taken, that are without an answer at this `rsp_prod`."""
        entries = [self.native + n for n in range(self._nr_entries)]
        left = [entry for entry in entries if lib.xb_journal_is_unanswered(entry, rsp_prod)]
        # None was taken after rsp_prod + nr_entries; how long ago the oldest was has no bound but that of its patience.
        left.sort(key=lambda entry: (entry.index - rsp_prod - self._nr_entries) & 0xFFFFFFFF)
        return [bytes(ffi.buffer(entry.slot, request_bytes)) for entry in left]

    def close(self) -> None:
        """Let go of the memory."""
        self._entries.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


class JournalFile:
    """A journal's file, locked by this process. `close` keeps the file, `remove` does not; either is the end of it."""

    def __init__(self, path: Path, fd: int, nr_entries: int) -> None:
        self._path = path
        self._fd = fd
        self.journal: Final = Journal(nr_entries, mmap.mmap(fd, _HEADER_BYTES + nr_entries * _ENTRY_BYTES), fd)

    @classmethod
    def create(cls, path: Path, identity: bytes, nr_entries: int) -> "JournalFile":
        """An empty journal, in place of whatever was there, in one step. OSError if there is no room for it."""
        new = path.with_suffix(f".{os.getpid()}")
        with contextlib.ExitStack() as undo:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, fd)
            undo.callback(new.unlink, missing_ok=True)
            os.posix_fallocate(fd, 0, _HEADER_BYTES + nr_entries * _ENTRY_BYTES)
            os.pwrite(fd, _MAGIC + identity, 0)
            fcntl.flock(fd, fcntl.LOCK_EX)
            made = cls(path, fd, nr_entries)
            undo.callback(made.journal.close)
            new.rename(path)
            undo.pop_all()
        return made

    @classmethod
    def find(cls, path: Path, identity: bytes) -> "JournalFile | None":
        """What another backend left; None if that is nothing, or of another ring.

        BlockingIOError while that backend lives, or its disk is at work still.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(fd), path.stat()):
                raise BlockingIOError(errno.EAGAIN, f"another backend has just taken {path} over")
            if os.pread(fd, len(_MAGIC + identity), 0) != _MAGIC + identity:
                return None
            found = cls(path, fd, (os.fstat(fd).st_size - _HEADER_BYTES) // _ENTRY_BYTES)
            undo.pop_all()
        return found

    def remove(self) -> None:
        """Nothing is left for anybody."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file, and whatever it says, to the next backend."""
        self.journal.close()
        os.close(self._fd)


def device_name(backend: Domid, frontend: int | str, handle: str) -> str:
    """What its journals are called by."""
    return f"vbd-{backend}-{frontend}-{handle}"


def named_in(folder: Path, backend: Domid) -> set[str]:
    """The names of those of this domain's devices that have journals here."""
    return {path.name.rpartition("-")[0] for path in folder.glob(device_name(backend, "*", "*"))}


def remove_journals(folder: Path, name: str) -> None:
    """Remove what a device left that is gone. What a living backend holds, or its disk, stays."""
    for path in folder.glob(f"{name}-*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def journal_path(folder: Path, name: str, queue: int) -> Path:
    """The journal of one of a device's rings."""
    return folder / f"{name}-{queue}.journal"


def find_journals(folder: Path, name: str, keys: FrontendKeys) -> list[JournalFile] | None:
    """What another backend of this device left, of all its rings or of none. BlockingIOError as JournalFile.find."""
    with contextlib.ExitStack() as undo:
        found: list[JournalFile] = []
        for number, queue in enumerate(keys.queues):
            left = JournalFile.find(journal_path(folder, name, number), ring_identity(keys, queue))
            if left is None:
                return None
            undo.callback(left.close)
            found.append(left)
        undo.pop_all()
    return found


def close_all(journals: Sequence[JournalFile]) -> None:
    """Leave all of them."""
    for journal in journals:
        journal.close()
