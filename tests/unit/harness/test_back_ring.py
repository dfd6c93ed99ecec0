"""The raw backend's ring: event indexes by the truth table, slots where io/ring.h has them, answers of any kind."""

import mmap
import struct

import pytest

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import X86_32, X86_64, Abi, BlkifRequest, BlkifResponse
from xenblk.harness.wire.back_ring import RawBackRing
from xenblk.harness.wire.deadline import DeadlineError
from xenblk.ring import FrontRing


class NoChannel:
    """Counts notifications."""

    def __init__(self) -> None:
        self.sent = 0

    def notify(self) -> None:
        self.sent += 1


def ring(abi: Abi = X86_64, order: int = 0) -> tuple[RawBackRing, FrontRing]:
    memory = memoryview(mmap.mmap(-1, PAGE_SIZE << order))
    front = FrontRing(memory, abi.entry_size)
    return RawBackRing(memory, abi, NoChannel()), front  # type: ignore[arg-type]


def request(number: int) -> BlkifRequest:
    return BlkifRequest(0, 1, number, number * 8, 0, ())


@pytest.mark.parametrize(
    ("old", "new", "event", "notify"),
    [
        (5, 6, 6, True),
        (5, 6, 7, False),
        (5, 6, 5, False),
        (5, 9, 8, True),
        (0xFFFFFFFF, 1, 0, True),
        (7, 7, 8, False),
    ],
)
def test_publish_follows_the_event_index(old: int, new: int, event: int, notify: bool) -> None:
    back, _ = ring()
    back.publish(old)
    back._words[3] = event
    assert back.publish(new) is notify


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=["x86_64", "x86_32"])
@pytest.mark.parametrize("order", [0, 2])
def test_requests_arrive_and_answers_return(abi: Abi, order: int) -> None:
    back, front = ring(abi, order)
    assert back.nr_ents == front.nr_ents
    for start in (0, back.nr_ents):
        for n in range(start, start + back.nr_ents):
            front.put(abi.pack_request(request(n)))
        front.push()
        taken = back.take_many(back.nr_ents)
        assert [r.id for r in taken] == [*range(start, start + back.nr_ents)]
        for r in taken:
            back.answer(r, -1, padding=0xAA)
        slots = [front.consume() for _ in taken]
        assert [abi.parse_response(s) for s in slots if s] == [BlkifResponse(r.id, 0, -1) for r in taken]


def test_padding_is_everything_but_the_fields() -> None:
    back, _ = ring()
    slot = back.padded(BlkifResponse(0x1122334455667788, 5, -2), 0xAA)
    assert slot[:16].hex() == "887766554433221105aafeffaaaaaaaa"
    assert set(slot[16:]) == {0xAA}


def test_nothing_comes() -> None:
    back, _ = ring()
    with pytest.raises(DeadlineError, match="a request on the ring"):
        back.take(timeout_s=0.01)


def test_lies_reach_the_frontend() -> None:
    back, front = ring()
    front.put(X86_64.pack_request(request(3)))
    front.push()
    back.answer(back.take(), number=(1 << 64) - 1, operation=9)
    slot = front.consume()
    assert slot is not None
    assert struct.unpack_from("<QB", slot) == ((1 << 64) - 1, 9)
