"""Both engines of the backend under the same requests: every answer, byte and count of one is that of the other.

A case is a list of steps, each of which JSON can hold:

    ["setup", {...}]                first, if at all: changes to the fields of Setup
    ["ask", operation, nr_segments, sector, id, [[gref, first_sect, last_sect], ...]]
    ["raw", "hexadecimal"]          a slot's bytes
    ["serve"]                       publish what was asked and have it served
    ["grant", gref, flags, domid, frame]    write a grant entry, whatever becomes of it
    ["fill", frame, seed]           new content for a page of the guest's
    ["time", seconds]               let time pass
    ["purge"]
    ["charge", count]               where records are charged by hand
    ["event", ahead]                the guest's event index
    ["break", ahead]                publish requests that are not there

Each engine has a guest of its own, so that neither can disturb the other. On a file that is not in memory the native
engine has many requests in flight, which it may answer in any order; there the requests of one batch must share
neither references nor frames nor sectors, a flush with data must be alone, and whatever may be mapped at a time must
have room. Then the order of the answers, how often the guest was notified and how often a request had to wait for a
record are not compared.
"""

import contextlib
import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.guest import Guest

from xenblk.abi import SECTOR_SIZE
from xenblk.blkback.access import CopiedAccess, DataAccess, MappedAccess
from xenblk.blkback.charging import ChargedRecords
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.native_server import NativeServer
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.python_server import PythonServer
from xenblk.blkif import X86_32, X86_64, BlkifRequest, BlkifResponse, BlkifSegment
from xenblk.counters import Counters
from xenblk.disk import FileDisk, MemoryDisk
from xenblk.errors import DiskError, RingPeerError
from xenblk.grants import PersistentGrants

DISK_SECTORS = 256
PATIENCE_S = 20.0
NR_GOOD, FIRST_GOOD, NR_DATA_FRAMES = 150, 8, 40
READONLY, FOREIGN, BAD_FRAME, UNGRANTED = 160, 170, 175, 180
GTF_PERMIT_ACCESS, GTF_READONLY = 1, 4


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What a case may choose. `disk` is "memory", "tmpfs", "file" or "direct"; the last two are served in any order."""

    x86_32: bool = False
    page_order: int = 0
    persistent: bool = True
    limit: int = 1056
    unused_s: int = 0
    grant_copy: bool = False
    read_only: bool = False
    disk: str = "memory"
    charged: bool = False
    records_per_page: int = 32
    maptrack_entries: int = 512

    @property
    def in_any_order(self) -> bool:
        """Whether answers may overtake each other."""
        return self.disk in ("file", "direct")


class Charges:
    """What was told of the charges."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def connected(self, _ring: object) -> None: ...

    def live(self, user_id: int) -> None:
        self.told.append(("live", user_id))

    def discarded(self, user_id: int) -> None:
        self.told.append(("discarded", user_id))


class Twin:
    """One engine with its guest, its disk and its counters."""

    _server: PythonServer | NativeServer

    def __init__(self, setup: Setup, folder: Path, name: str) -> None:
        self.setup = setup
        self.guest = Guest(X86_32 if setup.x86_32 else X86_64, setup.page_order, setup.maptrack_entries)
        self.counters = Counters()
        self.charges = Charges()
        self.now_s = 1000
        self._closed = False
        self._path = folder / name
        self.disk = self._open_disk(direct=name == "native")
        self._grant_all()

    def _open_disk(self, direct: bool) -> MemoryDisk | FileDisk:
        content = random.Random("disk").randbytes(DISK_SECTORS * SECTOR_SIZE)
        if self.setup.disk == "memory":
            disk = MemoryDisk(len(content), read_only=self.setup.read_only)
            disk.memory[:] = content
            return disk
        self._path.write_bytes(content)
        if direct and self.setup.disk == "direct":
            with contextlib.suppress(DiskError):  # a file system without direct I/O
                return FileDisk(self._path, self.setup.read_only, direct=True)
        return FileDisk(self._path, self.setup.read_only)

    def _grant_all(self) -> None:
        world = self.guest.world
        for at in range(NR_GOOD):
            world.set_entry(FIRST_GOOD + at, GTF_PERMIT_ACCESS, 0, 1 + at % NR_DATA_FRAMES)
        for at in range(10):
            world.set_entry(READONLY + at, GTF_PERMIT_ACCESS | GTF_READONLY, 0, 1 + at)
        for at in range(5):
            world.set_entry(FOREIGN + at, GTF_PERMIT_ACCESS, 9, 1 + at)
            world.set_entry(BAD_FRAME + at, GTF_PERMIT_ACCESS, 0, 64 + at)

    def drop_cache(self) -> None:
        """Let the kernel forget what it knows of the file, so that reads have to wait."""
        if self.setup.disk == "file" and isinstance(self.disk, FileDisk):
            self.disk.flush()
            os.posix_fadvise(self.disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def content(self) -> bytes:
        """What the disk holds."""
        return bytes(self.disk.memory) if isinstance(self.disk, MemoryDisk) else self._path.read_bytes()

    def memory(self) -> bytes:
        """All that the guest has, its grant table too."""
        return bytes(self.guest.world.memory)

    def close(self) -> None:
        """Close the engine, once."""
        if not self._closed:
            self._closed = True
            self._server.close()

    def end(self) -> None:
        """Close what is left."""
        self.close()
        self.disk.close()
        self.guest.close()


class PythonTwin(Twin):
    """The specification."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        super().__init__(setup, folder, "python")
        nr_records = setup.records_per_page << setup.page_order
        self._records = ChargedRecords(nr_records, self.charges if setup.charged else None)
        self._access = self._make_access()
        guest = self.guest
        self._engine = PythonEngine(guest.back, guest.abi, self.disk, self._access, self.counters, self._records)
        self._server = PythonServer(self._engine, self._access, guest.channel, self._records)

    def _make_access(self) -> DataAccess:
        guest, setup = self.guest, self.setup
        if setup.grant_copy:
            return CopiedAccess(guest.mapper, guest.world.domain, self.counters)
        grants = PersistentGrants(
            guest.mapper,
            guest.world.domain,
            persistent=setup.persistent,
            max_persistent_grants=setup.limit,
            counters=self.counters,
            unused_timeout_s=setup.unused_s,
        )
        return MappedAccess(grants, now=lambda: self.now_s)

    def serve(self) -> None:
        notify, _ = self._engine.serve_batch()
        if notify:
            self.guest.channel.notify()

    def purge(self) -> None:
        self._access.purge()

    def charge(self, user_id: int) -> bool:
        return self._server.charge(user_id)


class NativeTwin(Twin):
    """The same in C."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        super().__init__(setup, folder, "native")
        guest = self.guest
        parameters = BackendParameters(
            max_persistent_grants=setup.limit,
            persistent_grant_unused_seconds=setup.unused_s,
            grant_copy=setup.grant_copy,
            records_per_page=setup.records_per_page,
        )
        self._server = NativeServer(
            guest.back,
            self.disk,
            guest.mapper,
            guest.world.domain,
            guest.channel,
            self.counters,
            parameters,
            persistent=setup.persistent and not setup.grant_copy,
            charging=self.charges if setup.charged else None,
        )

    def serve(self) -> None:
        self._server.serve_batch(self.now_s * 10**9)

    def purge(self) -> None:
        self._server.purge(self.now_s * 10**9)

    def charge(self, user_id: int) -> bool:
        return self._server.charge(user_id)


class Twins:
    """Both, step by step."""

    def __init__(self, setup: Setup, stack: contextlib.ExitStack) -> None:
        on_tmpfs = "/dev/shm" if setup.disk == "tmpfs" and Path("/dev/shm").is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=on_tmpfs)))
        self.setup = setup
        self.python = PythonTwin(setup, folder)
        stack.callback(self.python.end)
        self.native = NativeTwin(setup, folder)
        stack.callback(self.native.end)
        self._user_ids = iter(range(1 << 30))

    @property
    def both(self) -> tuple[PythonTwin, NativeTwin]:
        return self.python, self.native

    def do(self, step: list[Any]) -> None:
        """One step but setup."""
        getattr(self, f"_{step[0]}")(*step[1:])

    def _ask(self, operation: int, nr_segments: int, sector: int, number: int, segments: list[list[int]]) -> None:
        request = BlkifRequest(
            operation, 0, number, sector, nr_segments, tuple(BlkifSegment(*segment) for segment in segments)
        )
        for twin in self.both:
            twin.guest.put(twin.guest.abi.pack_request(request))

    def _raw(self, hexadecimal: str) -> None:
        for twin in self.both:
            size = twin.guest.abi.entry_size
            twin.guest.put(bytes.fromhex(hexadecimal).ljust(size, b"\0")[:size])

    def _serve(self) -> None:
        for twin in self.both:
            twin.drop_cache()
            twin.guest.front.push()
        self._same(_outcome_of(self.python.serve), _outcome_of(self.native.serve))
        answers = self.python.guest.answers()
        natives = self._native_answers(len(answers))
        if self.setup.in_any_order:
            answers, natives = sorted(answers, key=_key), sorted(natives, key=_key)
        self._same(answers, natives)
        self.compare()

    def _native_answers(self, count: int) -> list[BlkifResponse]:
        answers = self.native.guest.answers()
        deadline_s = time.monotonic() + PATIENCE_S
        while self.setup.in_any_order and len(answers) < count and time.monotonic() < deadline_s:
            self.native.serve()
            answers += self.native.guest.answers()
        return answers

    def _grant(self, ref: int, flags: int, domid: int, frame: int) -> None:
        for twin in self.both:
            twin.guest.world.set_entry(ref, flags, domid, frame)

    def _fill(self, frame: int, seed: int) -> None:
        content = random.Random(seed).randbytes(4096)
        for twin in self.both:
            twin.guest.world.page(frame)[:] = content

    def _time(self, seconds: int) -> None:
        for twin in self.both:
            twin.now_s += seconds

    def _purge(self) -> None:
        for twin in self.both:
            twin.purge()
        self.compare()

    def _charge(self, count: int) -> None:
        for _ in range(count if self.setup.charged else 0):
            user_id = next(self._user_ids)
            self._same(*[twin.charge(user_id) for twin in self.both])

    def _event(self, ahead: int) -> None:
        for twin in self.both:
            twin.guest.ask_for_event(ahead)

    def _break(self, ahead: int) -> None:
        for twin in self.both:
            twin.guest.set_req_prod((int(twin.guest.front.native.rsp_cons) + ahead) & 0xFFFFFFFF)
        for _ in range(2):
            self._same(_outcome_of(self.python.serve), _outcome_of(self.native.serve))
        self.compare()

    def compare(self) -> None:
        """All that can be seen."""
        counts = [twin.counters.snapshot() for twin in self.both]
        for twin, count in zip(self.both, counts, strict=True):
            twin.counters.check()
            assert count["persistent_in_use"] == 0
            assert count["map_pages"] - count["unmap_pages"] == twin.guest.pins()
            if not self.setup.in_any_order:
                assert twin.guest.channel.statistics().sent == count["notify_sent"]
        if self.setup.in_any_order:
            for count in counts:
                del count["notify_sent"], count["notify_held"], count["oo_req"]
        self._same(*counts)
        self._same(*[twin.charges.told for twin in self.both])
        self._same(*[twin.guest.world.pins() for twin in self.both])
        assert self.python.memory() == self.native.memory(), "the guests' memory differs"
        assert self.python.content() == self.native.content(), "the disks differ"

    def _same(self, python: Any, native: Any) -> None:
        if isinstance(python, dict):
            native, python = (
                {k: v for k, v in a.items() if b.get(k) != v} for a, b in ((native, python), (python, native))
            )
        assert python == native, f"python: {python}\nnative: {native}"

    def close(self) -> None:
        """End both; nothing may be left."""
        for twin in self.both:
            twin.close()
        self.compare()
        for twin in self.both:
            assert twin.guest.pins() == 0
            count = twin.counters.snapshot()
            assert count["persistent_current"] == 0
            assert count["map_pages"] == count["unmap_pages"]


def _key(answer: BlkifResponse) -> tuple[int, int, int]:
    return answer.id, answer.operation, answer.status


def _outcome_of(call: Callable[[], None]) -> str:
    try:
        call()
    except RingPeerError as e:
        return str(e)
    return "served"


def check(case: list[Any]) -> None:
    """Do the steps; AssertionError if the engines differ."""
    changes = case[0][1] if case and case[0][0] == "setup" else {}
    with contextlib.ExitStack() as stack:
        twins = Twins(Setup(**changes), stack)
        for step in case:
            if step[0] != "setup":
                twins.do(step)
        twins.close()
