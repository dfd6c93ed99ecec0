"""Both engines of the backend under the same requests: every answer, byte and count of one is that of the other.

A case is a list of steps, each of which JSON can hold:

    ["setup", {...}]                first, if at all: changes to the fields of Setup
    ["ask", operation, nr_segments, sector, id, [[gref, first_sect, last_sect], ...]]
    ["indirect", operation, nr_segments, sector, id, [[gref, first_sect, last_sect], ...], [gref of a page, ...]]
                                    without pages at the end, in the next ones of the guest's that are for this
    ["discard", sector, nr_sectors, id, flag]
    ["raw", "hexadecimal"]          a slot's bytes
    ["serve"]                       publish what was asked and have it served
    ["grant", gref, flags, domid, frame]    write a grant entry, whatever becomes of it
    ["fill", frame, seed]           new content for a page of the guest's
    ["time", seconds]               let time pass
    ["purge"]
    ["change", parameter, value]    set a parameter of the backend's, which the next purge heeds
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
import itertools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.sides import FIRST_TABLE, NR_DATA_FRAMES, NR_TABLES, NativeTwin, PythonTwin, Setup

from xenblk.abi import PAGE_SIZE, GrantRef
from xenblk.blkif import (
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    DiscardRequest,
    IndirectRequest,
    Request,
    pack_segments,
)
from xenblk.errors import RingPeerError

PATIENCE_S = 20.0


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
        self._tables = itertools.cycle(range(NR_TABLES))

    @property
    def both(self) -> tuple[PythonTwin, NativeTwin]:
        return self.python, self.native

    def do(self, step: list[Any]) -> None:
        """One step but setup."""
        getattr(self, f"_{step[0]}")(*step[1:])

    def _ask(self, operation: int, nr_segments: int, sector: int, number: int, segments: list[list[int]]) -> None:
        self._put(BlkifRequest(operation, 0, number, sector, nr_segments, _segments(segments)))

    def _discard(self, sector: int, nr_sectors: int, number: int, flag: int) -> None:
        self._put(DiscardRequest(0, number, sector, nr_sectors, flag))

    def _indirect(
        self, operation: int, count: int, sector: int, number: int, segments: list[list[int]], refs: list[int]
    ) -> None:
        """The segments are written however many pages there are for them, and whatever the references lead to."""
        data = pack_segments(_segments(segments))
        refs = list(refs)
        for at in range(0, len(data), PAGE_SIZE):
            table = next(self._tables)
            for twin in self.both:
                page = twin.guest.world.page(1 + NR_DATA_FRAMES + table)
                page[: len(data[at : at + PAGE_SIZE])] = data[at : at + PAGE_SIZE]
            refs.append(GrantRef(FIRST_TABLE + table))
        self._put(IndirectRequest(operation, 0, number, sector, count, tuple([*refs, *[0] * 8][:8])))

    def _put(self, request: Request) -> None:
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

    def _change(self, name: str, value: float) -> None:
        for twin in self.both:
            twin.parameters.change(name, str(value))

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


def _segments(numbers: list[list[int]]) -> tuple[BlkifSegment, ...]:
    return tuple(BlkifSegment(GrantRef(ref), first, last) for ref, first, last in numbers)


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
