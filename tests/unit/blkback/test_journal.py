"""The journal against a model: at every step, what it and the ring say together is what was taken and not answered."""

import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.blkback.journal import Journal, JournalFile
from xenblk.ring import BackRing, FrontRing

ENTRY_BYTES = 112
NR_ENTS = 32
STARTS = (0, 1000, 2**31 - 8, 2**32 - 8)


def request(number: int) -> bytes:
    return number.to_bytes(8, "little") * (ENTRY_BYTES // 8)


class Served:
    """A ring, a backend with a journal, and the model: which requests it has to answer still, in order."""

    def __init__(self, start: int) -> None:
        page = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self.front = FrontRing(page, ENTRY_BYTES)
        self.page = page
        if start:
            indexes = page.cast("I")
            indexes[0] = indexes[2] = start
            for name in ("req_prod_pvt", "req_prod_pushed", "rsp_cons", "rsp_prod_seen"):
                setattr(self.front.native, name, start)
        self.back = BackRing(page, ENTRY_BYTES)
        self.journal = Journal(NR_ENTS)
        self.free = list(range(NR_ENTS))
        self.taken: dict[int, int] = {}
        self.answered: dict[int, int] = {}
        self.asked: list[int] = []
        self.number = 0

    def ask(self) -> None:
        while self.front.consume() is not None:
            pass
        if self.front.free_slots:
            self.number += 1
            self.front.put(request(self.number))
            self.front.push()
            self.asked.append(self.number)

    def take(self) -> None:
        slot = self.back.consume() if self.free else None
        if slot is not None:
            self.check(self.asked)  # off the ring, and not counted as taken
            entry = self.free.pop()
            self.journal.take(entry, slot, (self.back.req_cons - 1) % 2**32)
            self.taken[entry] = int.from_bytes(slot[:8], "little")

    def answer(self, which: int) -> None:
        if self.taken:
            entry = sorted(self.taken)[which % len(self.taken)]
            self.journal.answer(entry, self.back.rsp_prod)
            self.check(self.asked)  # the response is not put
            self.back.put(b"response".ljust(ENTRY_BYTES))
            self.answered[entry] = self.taken.pop(entry)

    def publish(self) -> None:
        self.back.push()
        self.asked = [number for number in self.asked if number not in self.answered.values()]
        for entry in list(self.answered):
            self.check(self.asked)  # published, and forgotten in part
            self.journal.forget(entry)
            self.free.append(entry)
            del self.answered[entry]

    def check(self, expected: list[int]) -> None:
        """A successor, on a copy of the page, finds exactly these requests, in this order."""
        copy = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        copy[:] = self.page
        ring = BackRing(copy, ENTRY_BYTES)
        for _ in range(2):  # it may be killed as well
            ring.restore(self.journal.unanswered(ring.rsp_prod, ENTRY_BYTES))
        found = []
        while (slot := ring.consume()) is not None:
            assert slot == request(int.from_bytes(slot[:8], "little"))
            found.append(int.from_bytes(slot[:8], "little"))
        assert found == expected


STEPS = st.one_of(
    st.just(Served.ask),
    st.just(Served.take),
    st.builds(lambda which: lambda served: served.answer(which), st.integers(0, NR_ENTS - 1)),
    st.just(Served.publish),
)


@given(start=st.sampled_from(STARTS), steps=st.lists(STEPS, max_size=120))
def test_nothing_is_lost_and_nothing_is_done_twice(start: int, steps: list[Callable[[Served], None]]) -> None:
    served = Served(start)
    for step in steps:
        step(served)
        served.check(served.asked)


def test_one_request_that_takes_longer_than_a_round_of_the_ring() -> None:
    served = Served(2**32 - 40)
    served.ask()
    served.take()
    for _ in range(3 * NR_ENTS):
        served.ask()
        served.take()
        served.answer(sorted(served.taken).index(min(served.taken, key=lambda entry: -served.taken[entry])))
        served.publish()
        served.check([1])


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    path, ring = tmp_path / "vbd.journal", bytes(range(32))
    assert JournalFile.find(path, ring) is None
    first = JournalFile.create(path, ring, NR_ENTS)
    first.journal.take(3, request(7), 0)
    with pytest.raises(BlockingIOError):
        JournalFile.find(path, ring)
    first.close()
    assert JournalFile.find(path, bytes(32)) is None
    second = JournalFile.find(path, ring)
    assert second is not None
    assert second.journal.unanswered(0, ENTRY_BYTES) == [request(7)]
    third = JournalFile.create(path, ring, NR_ENTS)
    second.close()
    with pytest.raises(BlockingIOError):
        JournalFile.find(path, ring)
    third.remove()
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_replaced_while_somebody_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ring = tmp_path / "vbd.journal", bytes(range(32))
    JournalFile.create(path, ring, NR_ENTS).close()
    lock = fcntl.flock

    def another_is_faster(fd: int, how: int) -> None:
        monkeypatch.undo()
        JournalFile.create(path, ring, NR_ENTS).close()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", another_is_faster)
    with pytest.raises(BlockingIOError, match="another backend"):
        JournalFile.find(path, ring)
