"""A raw ring is where a real one is, though its pages lie apart, and waits no longer than it is told."""

import itertools
import mmap
from typing import Any, cast

import pytest

from xenblk.abi import DOM0, PAGE_SIZE, Domid, EvtchnPort, GrantRef
from xenblk.blkif import X86_32, X86_64, Abi, BlkifOp, BlkifRequest, BlkifResponse
from xenblk.grants import Page
from xenblk.harness.wire.deadline import DeadlineError, wait_for
from xenblk.harness.wire.ring import RawRing
from xenblk.platform import Platform
from xenblk.ring import BackRing

NR_FRAMES = 64


class Channel:
    """An end of an event channel that counts."""

    port = EvtchnPort(7)

    def __init__(self) -> None:
        self.sent = 0
        self.closed = False

    def notify(self) -> None:
        self.sent += 1

    def close(self) -> None:
        self.closed = True


class Guest:
    """A domain with 64 frames whose backend maps nothing."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, NR_FRAMES * PAGE_SIZE)
        self.memory = self.grant_table = self
        self.frames = list(range(NR_FRAMES))
        self.numbers = itertools.count(8)
        self.granted: dict[GrantRef, int] = {}
        self.channel = Channel()

    def allocate_page(self) -> Page:
        frame = self.frames.pop(0)
        return Page(frame, memoryview(self.map)[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE])

    def free_page(self, page: Page) -> None:
        page.view.release()
        self.frames.append(page.frame)

    def grant(self, domid: Domid, frames: list[int]) -> list[GrantRef]:
        assert domid == DOM0
        refs = [GrantRef(next(self.numbers)) for _ in frames]
        self.granted.update(zip(refs, frames, strict=True))
        return refs

    def end_access(self, ref: GrantRef) -> bool:
        return self.granted.pop(ref) >= 0

    def alloc_unbound(self, _remote: Domid) -> Any:
        return self.channel


def flat(ring: RawRing) -> mmap.mmap:
    """The ring's pages in one piece, as a backend maps them; a copy."""
    memory = mmap.mmap(-1, len(ring.pages) * PAGE_SIZE)
    memory[:] = ring.read(0, len(memory))
    return memory


@pytest.mark.parametrize("abi", [X86_64, X86_32], ids=str)
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("start", [0, 0xFFFF_FFF0])
def test_every_slot_is_where_a_backend_looks(abi: Abi, order: int, start: int) -> None:
    guest = Guest()
    ring = RawRing(cast(Platform, guest), DOM0, abi, order, start=start)
    frames = [guest.granted[ref] for ref in ring.refs]
    assert all(abs(a - b) > 1 for a, b in itertools.pairwise(frames))
    requests = [BlkifRequest(BlkifOp.READ, 0, number, number * 3, 0, ()) for number in range(ring.nr_ents)]
    for request in requests:
        ring.put(abi.pack_request(request))
    ring.publish()
    assert guest.channel.sent == 1
    back = BackRing(memoryview(flat(ring)), abi.entry_size)
    assert back.nr_ents == ring.nr_ents
    for request in requests:
        slot = back.consume()
        assert slot is not None
        assert abi.parse_request(slot) == request
    assert back.consume() is None


def test_responses_are_taken_in_order_and_waited_for_no_longer_than_said() -> None:
    guest = Guest()
    ring = RawRing(cast(Platform, guest), DOM0, X86_64, start=0xFFFF_FFFF)
    answers = [BlkifResponse(number, BlkifOp.READ, -number) for number in (1, 2)]
    for at, answer in enumerate(answers):
        ring.write(ring.slot_offset(0xFFFF_FFFF + at), X86_64.pack_response(answer))
    ring.rsp_prod = 1
    assert ring.take(2) == answers
    assert ring.responses_waiting == 0
    with pytest.raises(DeadlineError, match=r"waited 0\.01 s for 1 responses"):
        ring.take(1, 0.01)


def test_keys_and_close() -> None:
    guest = Guest()
    for order in (0, 2):
        ring = RawRing(cast(Platform, guest), DOM0, X86_64, order)
        names = {"ring-ref"} if order == 0 else {"ring-page-order", *(f"ring-ref{at}" for at in range(4))}
        assert set(ring.keys()) == {"event-channel", *names}
        ring.close()
    assert guest.channel.closed
    assert not guest.granted
    assert len(guest.frames) == NR_FRAMES


def test_wait_for_returns_what_it_saw() -> None:
    values = iter([0, 0, 5])
    assert wait_for(lambda: next(values), "a number") == 5
