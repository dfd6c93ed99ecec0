"""What a conformance case asks of a frontend, whatever it is: to connect, read, write, flush, discard and close.

Every call starts something and returns at once; its Future ends with the result, or with the OSError that a user of the
disk would get. So a case can play the backend of an operation that it started. To have a driver tested that runs in a
guest, give the guest an agent with these calls and say in a FrontendKind how to start it.
"""

import dataclasses
import errno
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeVar

from xenblk.abi import PAGE_SIZE, Domid
from xenblk.blkfront import Bio, Blkfront, VirtualDisk
from xenblk.blkfront.options import FrontendOptions
from xenblk.blkif import BlkifOp
from xenblk.engines import ENGINES
from xenblk.errors import UsageError, XenblkError
from xenblk.harness.doubles import FRONTENDS
from xenblk.harness.doubles.frontend_quirks import QUIRKS
from xenblk.harness.doubles.frontend_thread import FrontendThread
from xenblk.platform import Platform

T = TypeVar("T")

Options = Mapping[str, Any]
"""How a frontend is started: ring_page_order, nr_queues, max_indirect_segments, feature_persistent, recover."""

_POLL_S: Final = 0.002


class Guest(Protocol):
    """The domain of a frontend, as its backend has to know it: a Platform, where that is our own process."""

    domid: Domid


class FrontendUnderTest(Protocol):
    """One disk's frontend in a guest. Offsets and lengths are bytes, multiples of 512."""

    @property
    def size(self) -> int:
        """Bytes of the disk, once connected."""

    @property
    def read_only(self) -> bool:
        """Whether its user is told that the disk cannot be written."""

    @property
    def offers_discard(self) -> bool:
        """Whether `discard` does anything."""

    def connect(self) -> Future[None]:
        """Shake hands with the backend."""

    def read(self, offset: int, nr_bytes: int) -> Future[bytes]:
        """Read from the disk."""

    def write(self, offset: int, data: bytes) -> Future[None]:
        """Write to the disk, from a buffer that starts in the middle of a page full of other data."""

    def flush(self) -> Future[None]:
        """Make durable what was written."""

    def discard(self, offset: int, nr_bytes: int) -> Future[None]:
        """Say that the range is not needed any more."""

    def close(self) -> Future[None]:
        """Leave in good order."""

    def stop(self) -> None:
        """Make an end, in whatever state it is; the device's nodes are gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrontendKind:
    """A frontend that can be started in a guest of its kind: `options` are the names that `start` takes."""

    name: str
    start: Callable[[Any, int, Options], FrontendUnderTest]
    options: frozenset[str]
    one_at_a_time: bool = False
    """Whether an operation waits until the one before has ended: then some cases are not for it."""
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Nodes of the backend's without which it gives up: they are there from the start."""
    needs_new_nodes: bool = False
    """Whether it comes back to a disk only if a toolstack has taken that away, and given it again."""
    quiet_s: float = 0.05
    """How long nothing may happen before a case believes that nothing does."""


class BlkfrontUnderTest:
    """Our own frontend: a thread has it to itself, and does what it is asked to in between polls."""

    def __init__(self, platform: Platform, handle: int, options: Options) -> None:
        self._frontend = Blkfront(platform, handle, **options)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: dict[Bio, Future[None]] = {}
        self._thread = threading.Thread(target=self._run, name="frontend under test", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """See FrontendUnderTest."""
        return self._frontend.size

    @property
    def read_only(self) -> bool:
        """See FrontendUnderTest."""
        return self._frontend.read_only

    @property
    def offers_discard(self) -> bool:
        """See FrontendUnderTest."""
        return hasattr(VirtualDisk, "discard")

    def connect(self) -> Future[None]:
        """See FrontendUnderTest."""
        return self._do(self._frontend.connect)

    def read(self, offset: int, nr_bytes: int) -> Future[bytes]:
        """See FrontendUnderTest."""
        data = bytearray(nr_bytes)
        done: Future[bytes] = Future()
        self._submit(BlkifOp.READ, offset, lambda: memoryview(data)).add_done_callback(
            lambda read: _forward(read, done, lambda: bytes(data))
        )
        return done

    def write(self, offset: int, data: bytes) -> Future[None]:
        """See FrontendUnderTest."""
        return self._submit(BlkifOp.WRITE, offset, lambda: self._surrounded(data))

    def _surrounded(self, data: bytes) -> memoryview:
        """The data in memory of the domain, secrets before and behind it in the same pages."""
        memory = self._frontend.allocate(len(data) + 2 * PAGE_SIZE)
        memory[:] = b"\xa5" * memory.nbytes
        at = PAGE_SIZE if len(data) >= PAGE_SIZE else PAGE_SIZE + 1024
        memory[at : at + len(data)] = data
        return memory[at : at + len(data)]

    def flush(self) -> Future[None]:
        """See FrontendUnderTest."""
        return self._submit(BlkifOp.FLUSH_DISKCACHE, 0, lambda: None)

    def discard(self, offset: int, nr_bytes: int) -> Future[None]:
        """See FrontendUnderTest."""
        disk: Any = VirtualDisk(self._frontend)
        return self._do(lambda: disk.discard(offset, nr_bytes))

    def close(self) -> Future[None]:
        """See FrontendUnderTest."""
        return self._do(self._frontend.close)

    def stop(self) -> None:
        """See FrontendUnderTest."""
        self._do(self._frontend.close)
        self._commands.put(None)
        self._thread.join()

    # The thread

    def _do(self, function: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        self._commands.put(lambda: _settle(done, function))
        return done

    def _submit(self, op: BlkifOp, offset: int, buffer: Callable[[], memoryview | None]) -> Future[None]:
        done: Future[None] = Future()

        def submit() -> None:
            try:
                self._waiting[self._frontend.submit(op, offset, buffer())] = done
            except (OSError, XenblkError) as e:
                done.set_exception(e)

        self._commands.put(submit)
        return done

    def _run(self) -> None:
        while self._take_commands():
            if self._waiting:
                self._frontend.poll(_POLL_S)
                self._settle_bios()

    def _take_commands(self) -> bool:
        """Do what is asked; False for the end. Waits while there is nothing to poll for."""
        block = not self._waiting
        while True:
            try:
                command = self._commands.get(block)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            block = False

    def _settle_bios(self) -> None:
        for bio in [bio for bio in self._waiting if bio.pieces_left == 0]:
            done = self._waiting.pop(bio)
            if bio.error is None:
                done.set_result(None)
            else:
                done.set_exception(bio.error)


def _as_os_error(function: Callable[[], T]) -> T:
    try:
        return function()
    except XenblkError as e:
        raise OSError(errno.EIO, str(e)) from e


def _settle(done: Future[T], function: Callable[[], T]) -> None:
    try:
        done.set_result(function())
    except Exception as e:
        done.set_exception(e)


def _forward(source: Future[None], target: Future[T], result: Callable[[], T]) -> None:
    error = source.exception()
    if error is None:
        target.set_result(result())
    else:
        target.set_exception(error)


def our_frontend(engine: str) -> FrontendKind:
    """Blkfront with one of its engines."""
    taken = {field.name for field in dataclasses.fields(FrontendOptions)} - {"engine", "poll_us"}
    return FrontendKind(
        engine,
        lambda platform, handle, options: BlkfrontUnderTest(platform, handle, {"engine": engine, **options}),
        frozenset(taken),
    )


def frontend_kind(name: str) -> FrontendKind:
    """The frontend of this name; UsageError if there is none."""
    if name in ENGINES:
        return our_frontend(name)
    if name in FRONTENDS:
        make, quirks = FRONTENDS[name], QUIRKS[name]
        return FrontendKind(
            name,
            lambda platform, handle, options: FrontendThread(make(platform, handle, **options)),
            quirks.options,
            quirks.one_at_a_time,
            quirks.needs,
        )
    raise UsageError(f"a frontend to test is one of {', '.join(frontend_names())}, not {name!r}")


def frontend_names() -> list[str]:
    """Whom `frontend_kind` knows: our engines, and doubles of known frontends."""
    return [*ENGINES, *FRONTENDS]
