"""Both ends of a ring over one page: what they write where, what they believe, when they notify."""

import mmap
import struct

import pytest

from xenblk.errors import RingPeerError, UsageError, WouldBlockError
from xenblk.ring import BackRing, FrontRing, RingStatistics, entry_offset

PAGE = 4096
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = range(4)


class Pair:
    """Two ends over memory of their own; `words` are the shared indexes."""

    def __init__(self, pages: int = 1, entry_size: int = 112, start: int = 0) -> None:
        self.page = memoryview(mmap.mmap(-1, pages * PAGE))
        self.words = self.page.cast("I")
        self.front = FrontRing(self.page, entry_size)
        self.entry_size = entry_size
        if start:
            self.words[REQ_PROD] = self.words[RSP_PROD] = start
            self.words[REQ_EVENT] = self.words[RSP_EVENT] = (start + 1) & 0xFFFFFFFF
            for field in ("req_prod_pvt", "req_prod_pushed", "rsp_cons", "rsp_prod_seen"):
                setattr(self.front._private, field, start)
        self.back = BackRing(self.page, entry_size)

    def entry(self, number: int) -> bytes:
        return struct.pack("<I", number).ljust(self.entry_size, bytes([number & 0xFF]))

    def send(self, *numbers: int) -> bool:
        for number in numbers:
            self.front.put(self.entry(number))
        return self.front.push()

    def answer(self, *numbers: int) -> bool:
        for number in numbers:
            self.back.put(self.entry(number))
        return self.back.push()


def drain(ring: FrontRing | BackRing) -> list[int]:
    return [int.from_bytes(entry[:4], "little") for entry in iter(ring.consume, None)]


def test_front_makes_an_empty_ring_of_a_dirty_page() -> None:
    page = memoryview(mmap.mmap(-1, PAGE))
    page[:] = b"\xaa" * PAGE
    FrontRing(page, 112)
    assert list(page.cast("I")[:4]) == [0, 1, 0, 1]
    assert bytes(page[16:]) == bytes(PAGE - 16)


@pytest.mark.parametrize("entry_size", [8, 108, 112])
@pytest.mark.parametrize("pages", [1, 2, 4, 8, 16])
def test_every_slot_of_every_size(pages: int, entry_size: int) -> None:
    pair = Pair(pages, entry_size)
    nr_ents = pair.front.nr_ents
    assert pair.back.nr_ents == nr_ents
    pair.send(*range(nr_ents))
    for number in range(nr_ents):
        at = entry_offset(number, nr_ents, entry_size)
        assert pair.page[at : at + entry_size] == pair.entry(number)
        assert pair.back.consume() == pair.entry(number)
    pair.answer(*range(1000, 1000 + nr_ents))
    assert drain(pair.front) == list(range(1000, 1000 + nr_ents))


@pytest.mark.parametrize(
    ("entry_size", "pages", "slot", "start"), [(112, 2, 36, 4096), (112, 4, 72, 8128), (108, 2, 37, 4060)]
)
def test_slots_at_and_across_a_page_boundary(entry_size: int, pages: int, slot: int, start: int) -> None:
    pair = Pair(pages, entry_size)
    entry = bytes(i + 1 for i in range(entry_size))
    for number in range(slot):
        pair.front.put(pair.entry(number))
    pair.front.put(entry)
    assert pair.page[start : start + entry_size] == entry
    pair.front.push()
    assert [pair.back.consume() for _ in range(slot + 1)][-1] == entry


@pytest.mark.parametrize("start", [0, 0xFFFFFFF0])
def test_full_and_empty_around_the_wrap(start: int) -> None:
    pair = Pair(start=start)
    for turn in range(3):
        numbers = list(range(turn * 32, turn * 32 + 32))
        pair.send(*numbers)
        assert pair.front.free_slots == 0
        assert pair.front.outstanding == 32
        with pytest.raises(WouldBlockError, match="all 32 slots"):
            pair.front.put(pair.entry(0))
        assert drain(pair.back) == numbers
        assert pair.back.unanswered == 32
        pair.answer(*numbers)
        assert drain(pair.front) == numbers
        assert pair.front.free_slots == 32
    assert pair.words[REQ_PROD] == (start + 96) & 0xFFFFFFFF
    pair.front._check()
    pair.back._check()


# old producer, new producer, event, notify? (io/ring.h, RING_PUSH_REQUESTS_AND_CHECK_NOTIFY)
NOTIFY = [
    (5, 6, 6, True),
    (5, 6, 7, False),
    (5, 6, 5, False),
    (5, 9, 8, True),
    (0xFFFFFFFF, 1, 0, True),
    (5, 5, 5, False),
]


@pytest.mark.parametrize(("old", "new", "event", "notify"), NOTIFY)
def test_notifies_when_the_event_index_is_passed(old: int, new: int, event: int, notify: bool) -> None:
    pair = Pair(start=old)
    count = (new - old) & 0xFFFFFFFF
    pair.words[REQ_EVENT] = event
    assert pair.send(*range(count)) is notify
    drain(pair.back)
    pair.words[RSP_EVENT] = event
    assert pair.answer(*range(count)) is notify


def test_final_check_asks_for_the_next_entry() -> None:
    pair = Pair()
    assert pair.send(1)
    assert pair.back.final_check()
    assert drain(pair.back) == [1]
    assert not pair.send(2), "the backend did not ask yet: it is awake"
    assert pair.back.final_check(), "work came before it could sleep"
    assert drain(pair.back) == [2]
    assert not pair.back.final_check()
    assert pair.words[REQ_EVENT] == 3
    assert pair.send(3)
    assert pair.front.final_check() is False
    assert pair.words[RSP_EVENT] == 1


def test_statistics() -> None:
    pair = Pair()
    pair.send(1, 2)
    pair.send(3)
    pair.front.push()
    drain(pair.back)
    pair.answer(1)
    drain(pair.front)
    assert pair.front.statistics() == RingStatistics(3, 1, pushes=2, notify_asked=1, notify_held=1)
    assert pair.back.statistics() == RingStatistics(3, 1, pushes=1, notify_asked=1, notify_held=0)


def test_responses_only_to_consumed_requests() -> None:
    pair = Pair()
    pair.send(1)
    with pytest.raises(UsageError, match="consumed request"):
        pair.back.put(pair.entry(1))
    drain(pair.back)
    pair.answer(1)
    with pytest.raises(UsageError, match="consumed request"):
        pair.back.put(pair.entry(1))


def test_consume_gives_a_private_copy() -> None:
    pair = Pair()
    pair.send(7)
    copy = pair.back.consume()
    pair.page[64:176] = bytes(112)
    pair.send(8)
    assert pair.back.consume() == pair.entry(8)
    assert copy == pair.entry(7)


@pytest.mark.parametrize("start", [0, 0xFFFFFFF0])
def test_back_believes_nr_ents_requests_and_not_one_more(start: int) -> None:
    pair = Pair(start=start)
    pair.words[REQ_PROD] = (start + 32) & 0xFFFFFFFF
    assert len(drain(pair.back)) == 32
    pair.words[REQ_PROD] = (start + 33) & 0xFFFFFFFF
    _assert_stays_broken(pair.back, pair, REQ_PROD, start, "req_prod")


@pytest.mark.parametrize("start", [0, 0xFFFFFFF0])
def test_front_believes_a_response_per_request_and_not_one_more(start: int) -> None:
    pair = Pair(start=start)
    pair.send(*range(32))
    pair.words[RSP_PROD] = (start + 32) & 0xFFFFFFFF
    assert len(drain(pair.front)) == 32
    pair = Pair(start=start)
    pair.send(*range(32))
    pair.words[RSP_PROD] = (start + 33) & 0xFFFFFFFF
    _assert_stays_broken(pair.front, pair, RSP_PROD, start + 32, "rsp_prod")


def test_front_refuses_a_response_to_an_unpublished_request() -> None:
    pair = Pair()
    pair.front.put(pair.entry(1))
    pair.words[RSP_PROD] = 1
    _assert_stays_broken(pair.front, pair, RSP_PROD, 0, "rsp_prod")


@pytest.mark.parametrize("lie", [33, 0x80000000, 0xFFFFFFFF])
def test_producers_that_jump_or_go_back(lie: int) -> None:
    pair = Pair()
    pair.words[REQ_PROD] = pair.words[RSP_PROD] = lie
    _assert_stays_broken(pair.back, pair, REQ_PROD, 0, "req_prod")
    _assert_stays_broken(pair.front, pair, RSP_PROD, 0, "rsp_prod")


def test_back_notices_requests_taken_back() -> None:
    pair = Pair()
    pair.send(*range(5))
    assert len(drain(pair.back)) == 5
    pair.words[REQ_PROD] = 3
    _assert_stays_broken(pair.back, pair, REQ_PROD, 5, "req_prod")


def _assert_stays_broken(ring: FrontRing | BackRing, pair: Pair, word: int, honest: int, name: str) -> None:
    bogus = pair.words[word]
    assert ring.final_check(), "it must not sleep on it"
    with pytest.raises(RingPeerError, match=f"published {name} {bogus};"):
        ring.consume()
    pair.words[word] = honest & 0xFFFFFFFF
    assert ring.final_check()
    with pytest.raises(RingPeerError, match=f"published {name} {bogus};"):
        ring.consume()
    ring._check()


def test_own_indexes_are_not_taken_from_shared_memory() -> None:
    pair = Pair()
    pair.words[REQ_PROD] = 77
    assert pair.send(1)
    assert pair.words[REQ_PROD] == 1
    drain(pair.back)
    pair.words[RSP_PROD] = 77
    assert pair.answer(1)
    assert pair.words[RSP_PROD] == 1


def test_attach_serves_what_its_predecessor_left_unanswered() -> None:
    pair = Pair(start=0xFFFFFFF0)
    pair.send(*range(20))
    for _ in range(18):
        pair.back.consume()
    pair.answer(*range(17))
    successor = BackRing(pair.page, 112)
    assert drain(successor) == [17, 18, 19]
    for number in (17, 18, 19):
        successor.put(pair.entry(number))
    successor.push()
    assert drain(pair.front) == list(range(20))


def test_attach_believes_nr_ents_requests_and_not_one_more() -> None:
    pair = Pair()
    pair.words[RSP_PROD] = 100
    pair.words[REQ_PROD] = 132
    assert len(drain(BackRing(pair.page, 112))) == 32
    pair.words[REQ_PROD] = 133
    with pytest.raises(RingPeerError, match="published req_prod 133; it may be from req_cons 100 to 132"):
        BackRing(pair.page, 112)


def test_fewer_slots_than_fit() -> None:
    page = memoryview(mmap.mmap(-1, PAGE))
    assert FrontRing(page, 112, nr_ents=4).free_slots == 4
    for nr_ents in (0, 3, 64):
        with pytest.raises(UsageError, match=f"a power of two up to 32 here, not {nr_ents}"):
            FrontRing(page, 112, nr_ents=nr_ents)


def test_page_and_entries_must_fit() -> None:
    memory = memoryview(mmap.mmap(-1, 2 * PAGE))
    with pytest.raises(UsageError, match="a multiple of 4096 bytes in memory"):
        FrontRing(memory[64 : 64 + PAGE], 112)
    with pytest.raises(UsageError, match="not 4032 bytes"):
        BackRing(memory[: PAGE - 64], 112)
    ring = FrontRing(memory, 112)
    with pytest.raises(UsageError, match="112 bytes, not 108"):
        ring.put(bytes(108))


def test_the_memory_outlives_its_names() -> None:
    memory = mmap.mmap(-1, PAGE)
    ring = FrontRing(memoryview(memory), 112)
    with pytest.raises(BufferError):
        memory.close()
    del memory
    ring.put(bytes(112))
    assert ring.outstanding == 1
