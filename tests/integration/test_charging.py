"""A program that charges for requests: each charge goes live once, in order, or is discarded when its ring closes."""

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest

import xenblk
from xenblk.blkback.charging import ChargeableRing
from xenblk.counters import Counters
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import PeerGoneError, UsageError, WouldBlockError

PATIENCE_S = 20.0


class Meter:
    """Charges `at_first`, and one more for each that went live if `again`; remembers what was told."""

    def __init__(self, at_first: int = 0, again: bool = False) -> None:
        self._at_first = at_first
        self._again = again
        self.ring: ChargeableRing | None = None
        self.charged: list[int] = []
        self.told: list[tuple[str, int]] = []
        self.is_connected = threading.Event()

    def charge(self, count: int) -> None:
        assert self.ring is not None
        for _ in range(count):
            self.ring.charge(1000 + len(self.charged))
            self.charged.append(1000 + len(self.charged))

    def connected(self, ring: ChargeableRing) -> None:
        self.ring = ring
        self.charge(self._at_first)
        self.is_connected.set()

    def live(self, user_id: int) -> None:
        self.told.append(("live", user_id))
        if self._again:
            self.charge(1)

    def discarded(self, user_id: int) -> None:
        self.told.append(("discarded", user_id))

    def all_told(self, nr_live: int) -> bool:
        live = [("live", user_id) for user_id in self.charged[:nr_live]]
        return self.told == live + [("discarded", user_id) for user_id in self.charged[nr_live:]]


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def metered(engine: str, meter: Meter, records_per_page: int = 4) -> Iterator[tuple[xenblk.Host, xenblk.VirtualDisk]]:
    """A disk of 64 KiB whose ring the meter charges."""
    parameters = xenblk.BackendParameters(engine=engine, records_per_page=records_per_page)
    with xenblk.Host(parameters, charging=meter) as host, host.attach("memory:64K") as disk:
        assert meter.is_connected.wait(PATIENCE_S)
        yield host, disk


def test_nothing_is_served_before_it_is_charged(engine: str) -> None:
    meter = Meter()
    with metered(engine, meter) as (host, disk):
        reader = threading.Thread(target=disk.pread, args=(512, 0), daemon=True)
        reader.start()
        (path,) = RunDirectory(host.run_dir).counters.glob("*.back")
        counters = Counters.open(path)
        deadline = threading.Event()
        while counters.oo_req == 0:
            deadline.wait(0.005)
        assert reader.is_alive()
        assert counters.rd_req == 0
        meter.charge(1)
        reader.join(PATIENCE_S)
        assert not reader.is_alive()
        assert counters.rd_req == 1
        counters.close()
    assert meter.all_told(nr_live=1)


def test_charges_go_live_in_order_and_what_is_left_is_discarded(engine: str) -> None:
    meter = Meter(at_first=4)
    with metered(engine, meter) as (_, disk):
        assert meter.ring is not None
        assert meter.ring.nr_records == 4
        with pytest.raises(WouldBlockError, match="all 4 records"):
            meter.ring.charge(99)
        with pytest.raises(UsageError, match="from 0"):
            meter.ring.charge(-1)
        for n in range(3):
            disk.pwrite(bytes([n]) * 512, n * 512)
        meter.charge(3)
        assert disk.pread(1536, 0) == b"\0" * 512 + b"\1" * 512 + b"\2" * 512
    assert meter.all_told(nr_live=4)
    assert len(meter.charged) == 7
    with pytest.raises(PeerGoneError, match="closed"):
        meter.ring.charge(1)


@pytest.mark.parametrize("records_per_page", [1, 32])
def test_a_program_that_charges_again_for_each_is_always_served(engine: str, records_per_page: int) -> None:
    meter = Meter(at_first=1, again=True)
    with metered(engine, meter, records_per_page) as (_, disk):
        threads = [threading.Thread(target=disk.pwrite, args=(bytes([n]) * 8192, n * 8192)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [disk.pread(512, n * 8192)[0] for n in range(8)] == list(range(8))
    nr_live = sum(what == "live" for what, _ in meter.told)
    assert nr_live >= 16
    assert meter.all_told(nr_live)


def test_a_callback_that_fails_stops_no_ring(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Meter):
        def live(self, user_id: int) -> None:
            super().live(user_id)
            raise ValueError("live")

        def discarded(self, user_id: int) -> None:
            super().discarded(user_id)
            raise ValueError("discarded")

    meter = Failing(at_first=3)
    with caplog.at_level(logging.ERROR, "xenblk.blkback"), metered(engine, meter) as (_, disk):
        disk.pwrite(b"a" * 512, 0)
        assert disk.pread(512, 0) == b"a" * 512
    assert meter.all_told(nr_live=2)
    assert len([record for record in caplog.records if "callback" in record.message]) == 3
