"""The native engine's own loop, where it has nothing to serve requests with."""

import threading
from pathlib import Path

import pytest
from engines.sides import NativeTwin, Setup

from xenblk.errors import RingPeerError

PATIENCE_S = 20.0


def test_regression_a_broken_ring_ends_the_loop_without_a_record(tmp_path: Path) -> None:
    twin, told = NativeTwin(Setup(charged=True), tmp_path), []
    twin.guest.set_req_prod(1 << 31)

    def run() -> None:
        with pytest.raises(RingPeerError) as e:
            twin._server.run()
        told.append(e.value)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    ended = not thread.is_alive()
    twin._server.stop()
    thread.join()
    twin.end()
    assert ended
    assert "2147483648" in str(told[0])


def test_regression_a_request_without_a_record_is_counted_and_waits(tmp_path: Path) -> None:
    twin = NativeTwin(Setup(charged=True), tmp_path)
    twin.guest.put(b"\x63".ljust(twin.guest.abi.entry_size, b"\0"))
    twin.guest.front.push()
    thread = threading.Thread(target=twin._server.run)
    thread.start()
    waiting = threading.Event()
    for _ in range(2000):
        if twin.counters.oo_req or waiting.wait(0.01):
            break
    counted = twin.counters.oo_req
    twin.charge(7)
    while not twin.guest.answers():
        waiting.wait(0.001)
    twin._server.stop()
    thread.join()
    twin.end()
    assert counted > 0
    assert twin.charges.told == [("live", 7)]
