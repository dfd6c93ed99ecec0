"""The loop: who is called for what, in which order, and from where it can be told to stop."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from xenblk.loop import READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(end) for end in socket.socketpair())
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def test_a_descriptor_that_is_ready(loop: Loop, pair: Pair) -> None:
    masks: list[int] = []

    def ready(mask: int) -> None:
        masks.append(mask)
        assert pair[0].recv(10) == b"x"
        loop.stop()

    loop.add(pair[0].fileno(), READ, ready)
    pair[1].send(b"x")
    loop.run()
    assert masks == [READ]


def test_waiting_for_something_else(loop: Loop, pair: Pair) -> None:
    masks: list[int] = []

    def ready(mask: int) -> None:
        masks.append(mask)
        if len(masks) == 1:
            loop.change(pair[0].fileno(), READ)
            pair[1].send(b"x")
        else:
            loop.stop()

    loop.add(pair[0].fileno(), WRITE, ready)
    loop.run()
    assert masks == [WRITE, READ]


def test_a_hang_up_is_told_even_to_who_waits_for_nothing(loop: Loop, pair: Pair) -> None:
    masks: list[int] = []
    loop.add(pair[0].fileno(), 0, lambda mask: (masks.append(mask), loop.stop())[1])
    pair[1].close()
    loop.run()
    assert masks
    assert not masks[0] & (READ | WRITE)


def test_who_was_removed_in_the_same_round_is_not_called(loop: Loop) -> None:
    """Both are ready; whichever comes first removes the other."""
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        called: list[int] = []

        def ready(own: int) -> None:
            called.append(own)
            loop.remove(pairs[1 - own][0].fileno())
            loop.call(loop.stop)

        for i, (end, other) in enumerate(pairs):
            loop.add(end.fileno(), READ, lambda _mask, own=i: ready(own) if own not in called else None)
            other.send(b"x")
        loop.run()
        assert len(called) == 1


def test_a_descriptor_is_known_once(loop: Loop, pair: Pair) -> None:
    loop.add(pair[0].fileno(), READ, lambda _mask: None)
    with pytest.raises(FileExistsError):
        loop.add(pair[0].fileno(), READ, lambda _mask: None)
    loop.remove(pair[0].fileno())
    loop.add(pair[0].fileno(), READ, lambda _mask: None)


def test_a_regular_file_cannot_be_waited_for(loop: Loop) -> None:
    with open(__file__, "rb") as file, pytest.raises(PermissionError):
        loop.add(file.fileno(), READ, lambda _mask: None)


def test_tickers_come_before_each_wait_and_the_shortest_wait_counts(loop: Loop) -> None:
    """One would wait for ever, one for an hour; the third says not at all, until it has had enough."""
    calls: list[str] = []

    def impatient() -> float:
        calls.append("impatient")
        if len(calls) >= 9:
            loop.stop()
        return 0.0

    loop.add_ticker(lambda: calls.append("patient"))
    loop.add_ticker(lambda: (calls.append("slow"), 3600.0)[1])
    loop.add_ticker(impatient)
    loop.run()
    assert calls == ["patient", "slow", "impatient"] * 3


def test_calls_from_other_threads_come_in_order_in_the_loops_own(loop: Loop) -> None:
    found: list[tuple[int, int]] = []

    def call() -> None:
        for i in range(1000):
            loop.call(lambda i=i: found.append((i, threading.get_ident())))
        loop.call(loop.stop)

    thread = threading.Thread(target=call)
    thread.start()
    loop.run()
    thread.join()
    assert found == [(i, threading.get_ident()) for i in range(1000)]


def test_stop_from_a_signal_handler(loop: Loop) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda _number, _frame: loop.stop())
    try:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_stop_before_it_runs(loop: Loop) -> None:
    loop.stop()
    loop.run()


def test_what_a_callback_raises_comes_out(loop: Loop) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop.call(fail)
    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_its_descriptors_are_given_back() -> None:
    before = os.listdir("/proc/self/fd")
    Loop().close()
    assert os.listdir("/proc/self/fd") == before
