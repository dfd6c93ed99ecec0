"""Doubles of known drivers in the hands of a test: on the wire as the originals are, and slow."""

import contextlib
import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from xenblk.abi import SECTOR_SIZE
from xenblk.blkif import NATIVE
from xenblk.errors import UsageError
from xenblk.harness.doubles import FRONTENDS
from xenblk.harness.doubles.frontend_quirks import QUIRKS
from xenblk.harness.doubles.frontend_thread import FrontendThread
from xenblk.platform import Platform
from xenblk.testing.vbd import AttachedVbd

T = TypeVar("T")

CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0
CLOSE_S: Final = 5.0
"""How long a backend may take; a double waits for ever, as its original does."""


class FrontendDisk:
    """The disk of a double of a frontend. The calls are VirtualDisk's, and so are the errors.

    What its driver does not do is done at once: a discard, a flush that the backend does not offer. OSError ETIMEDOUT
    for a backend that does not answer. `frontend` has the calls that do not wait.
    """

    def __init__(self, frontend: FrontendThread) -> None:
        self.frontend = frontend

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self.frontend.size

    @property
    def read_only(self) -> bool:
        """Whether the disk cannot be written."""
        return self.frontend.read_only

    def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer only at the end of the disk."""
        _check_aligned(count, offset)
        count = max(0, min(count, self.size - offset))
        return _result(self.frontend.read(offset, count), "a read") if count else b""

    def pwrite(self, data: Any, offset: int, *, fua: bool = False) -> int:
        """Write a bytes-like object; returns how much of it. Durable only after `flush`, which `fua` includes."""
        written = bytes(data)
        _check_aligned(len(written), offset)
        if written:
            _result(self.frontend.write(offset, written), "a write")
            if fua:
                self.flush()
        return min(len(written), self.size - offset)

    def discard(self, offset: int, count: int) -> None:
        """Say that `count` bytes from `offset` are not needed any more."""
        _check_aligned(count, offset)
        if count:
            _result(self.frontend.discard(offset, count), "a discard")

    def flush(self) -> None:
        """Make every write that returned before durable, in this driver's way."""
        if not self.read_only:
            _result(self.frontend.flush(), "a flush")

    def close(self) -> None:
        """Disconnect from the backend."""
        _result(self.frontend.close(), "the end of the connection", CLOSE_S)


def connect_double(
    name: str, vbd: AttachedVbd, boot: Callable[[], Platform], undo: contextlib.ExitStack, options: dict[str, Any]
) -> FrontendThread:
    """A double of the frontend `name` on a disk, connected; `undo` gets what ends it. UsageError for no such double."""
    if name not in FRONTENDS:
        raise UsageError(f"a double of a frontend is one of {', '.join(FRONTENDS)}, not {name!r}")
    if unknown := options.keys() - QUIRKS[name].options:
        raise UsageError(f"the frontend of {name} has no option {', '.join(sorted(unknown))}")
    if not QUIRKS[name].writes_protocol:  # then a toolstack has to
        vbd.store.write(f"{vbd.frontend_path}/protocol", NATIVE.protocol)
    frontend = FrontendThread(FRONTENDS[name](boot(), vbd.handle, **options))
    undo.callback(frontend.stop)
    undo.callback(_leave, frontend)
    _result(frontend.connect(), f"a connection with the frontend of {name}", CONNECT_S)
    return frontend


def _leave(frontend: FrontendThread) -> None:
    with contextlib.suppress(OSError):  # left already, or never connected, or nobody answers any more
        _result(frontend.close(), "the end of the connection", CLOSE_S)


def _result(future: Future[T], what: str, timeout_s: float = ANSWER_S) -> T:
    try:
        return future.result(timeout_s)
    except TimeoutError as e:
        raise OSError(errno.ETIMEDOUT, f"waited {timeout_s:g} s for {what}") from e


def _check_aligned(count: int, offset: int) -> None:
    if offset < 0 or count < 0 or offset % SECTOR_SIZE or count % SECTOR_SIZE:
        raise OSError(errno.EINVAL, f"offset and length are multiples of {SECTOR_SIZE} bytes, not {offset} and {count}")
