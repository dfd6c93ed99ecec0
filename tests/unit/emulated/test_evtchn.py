"""Event channels: one bit that coalesces, can be withheld, and is never lost; ends that close and come back."""

import gc
import mmap
import os
import select
import threading
from collections.abc import Iterator

import pytest

from xenblk._native import ffi, lib
from xenblk.abi import Domid, EvtchnPort
from xenblk.emulated.channels import WORDS_BYTES, Channel, ChannelTable
from xenblk.emulated.evtchn import EmulatedEventChannel
from xenblk.errors import HostError

DOM0, GUEST = Domid(0), Domid(1)


class Fixture:
    """A table of channels as the host has it, and ends as processes have them."""

    def __init__(self) -> None:
        self.words = mmap.mmap(-1, WORDS_BYTES)
        self.table = ChannelTable(self.words)
        self.ends: list[EmulatedEventChannel] = []

    def end(self, port: EvtchnPort, channel: Channel, side: int, holder: object, domid: Domid) -> EmulatedEventChannel:
        words = ffi.from_buffer("uint32_t[]", self.words)
        fds = (os.dup(channel.eventfds[side]), os.dup(channel.eventfds[1 - side]))
        first = words + channel.number * 2
        end = EmulatedEventChannel(
            port, words, first + side, first + 1 - side, fds, lambda p: self.table.close(domid, p, holder)
        )
        self.ends.append(end)
        return end

    def unbound(self, holder: object) -> EmulatedEventChannel:
        port, channel = self.table.alloc_unbound(GUEST, DOM0, holder)
        return self.end(port, channel, 0, holder, GUEST)

    def bound(self, port: EvtchnPort, holder: object) -> EmulatedEventChannel:
        local, channel = self.table.bind_interdomain(DOM0, GUEST, port, holder)
        return self.end(local, channel, 1, holder, DOM0)


@pytest.fixture
def xen() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    for end in fixture.ends:
        end.close()


Pair = tuple[EmulatedEventChannel, EmulatedEventChannel]


@pytest.fixture
def pair(xen: Fixture) -> Pair:
    front = xen.unbound("guest")
    back = xen.bound(front.port, "backend")
    assert (front.wait(0), back.wait(0)) == (True, True), "binding sends one event to both ends"
    return front, back


def test_many_sends_before_the_receiver_runs_are_one_event(pair: Pair) -> None:
    front, back = pair
    for _ in range(5):
        front.notify()
    assert back.wait(0)
    assert not back.wait(0)
    assert (front.statistics().sent, front.statistics().coalesced) == (5, 4)
    assert (back.statistics().delivered, back.statistics().spurious) == (2, 1)


def test_both_directions_are_separate(pair: Pair) -> None:
    front, back = pair
    back.notify()
    assert not back.wait(0)
    assert front.wait(0)


def _readable(end: EmulatedEventChannel) -> bool:
    return bool(select.select([end.fileno()], [], [], 0)[0])


def test_masked_events_come_with_unmask(pair: Pair) -> None:
    front, back = pair
    back.mask()
    front.notify()
    front.notify()
    assert not _readable(back)
    back.unmask()
    assert _readable(back)
    assert back.wait(0)
    back.mask()
    back.unmask()
    assert not back.wait(0), "unmask without an event delivers none"


def test_a_send_to_an_unbound_end_is_dropped(xen: Fixture) -> None:
    front = xen.unbound("guest")
    assert not front.remote_bound
    front.notify()
    assert front.statistics().sent == 0
    back = xen.bound(front.port, "backend")
    assert front.remote_bound
    assert back.remote_bound


def test_closing_one_end_wakes_the_other(pair: Pair) -> None:
    front, back = pair
    back.close()
    assert front.wait(0)
    assert not front.remote_bound
    front.notify()


def die(xen: Fixture, end: EmulatedEventChannel, holder: object) -> None:
    """The process is gone, and the host noticed."""
    xen.table.close_all(holder)
    xen.ends.remove(end)
    end._on_close = lambda _port: None
    end.close()


def test_a_second_backend_binds_where_the_first_one_died(xen: Fixture) -> None:
    front = xen.unbound("guest")
    died = xen.bound(front.port, "first")
    die(xen, died, "first")
    assert not front.remote_bound
    second = xen.bound(front.port, "second")
    assert second.wait(0)
    assert front.wait(0)
    front.notify()
    assert second.wait(0)


def test_regression_a_backend_that_dies_as_it_wakes_up(xen: Fixture) -> None:
    """It had emptied the eventfd and left the bit: its successor slept for ever, as every event was an old one."""
    front = xen.unbound("guest")
    first = xen.bound(front.port, "first")
    os.read(first.fileno(), 8)
    die(xen, first, "first")
    second = xen.bound(front.port, "second")
    assert _readable(second)
    assert second.wait(0)
    front.notify()
    assert _readable(second)


def test_regression_a_backend_that_dies_as_it_notifies(pair: Pair, xen: Fixture) -> None:
    """It had set the bit and written no eventfd, and nor did the host: nobody told the frontend that it is alone."""
    front, back = pair
    assert lib.xb_evtchn_set_pending(back._native.remote_word)
    assert not _readable(front)
    die(xen, back, "backend")
    assert _readable(front)
    assert not front.remote_bound


def test_who_may_bind_and_close(xen: Fixture) -> None:
    front = xen.unbound("guest")
    for domid, remote, port in ((Domid(2), GUEST, front.port), (DOM0, DOM0, front.port), (DOM0, GUEST, EvtchnPort(99))):
        with pytest.raises(HostError, match="no event channel"):
            xen.table.bind_interdomain(domid, remote, port, "stranger")
    back = xen.bound(front.port, "backend")
    with pytest.raises(HostError, match="free for domain 0 to bind"):
        xen.table.bind_interdomain(DOM0, GUEST, front.port, "another")
    with pytest.raises(HostError, match="of this process"):
        xen.table.close(DOM0, back.port, "stranger")


def test_ports_come_back_and_nothing_leaks(xen: Fixture) -> None:
    gc.collect()  # an earlier test's descriptors must not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    ports = [xen.table.alloc_unbound(GUEST, DOM0, "many")[0] for _ in range(50)]
    assert ports == list(range(1, 51))
    xen.table.close_all("many")
    assert xen.table.ports(GUEST) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert xen.table.alloc_unbound(GUEST, DOM0, "again")[0] == 1
    xen.table.close_all("again")


def test_no_event_is_lost_between_threads(pair: Pair) -> None:
    front, back = pair
    rounds, turn = 10_000, [0]

    def answer() -> None:
        for n in range(rounds):
            while turn[0] != 2 * n + 1:
                back.wait(None)
            turn[0] += 1
            back.notify()

    thread = threading.Thread(target=answer)
    thread.start()
    for n in range(rounds):
        turn[0] += 1
        front.notify()
        while turn[0] != 2 * n + 2:
            assert front.wait(20) or turn[0] == 2 * n + 2, f"a wake-up was lost in round {n}"
    thread.join()


def test_a_full_eventfd_blocks_nobody(pair: Pair) -> None:
    """A process that writes whatever it likes to an eventfd keeps neither the host nor its peer from waking others."""
    front, back = pair
    for end in pair:
        os.eventfd_write(end.fileno(), 0xFFFFFFFFFFFFFFFE)
    back.wake()
    assert back.wait(0)
    os.eventfd_write(back.fileno(), 0xFFFFFFFFFFFFFFFE)
    front.close()  # the host wakes the other end
    assert not back.remote_bound
    assert back.wait(0)
