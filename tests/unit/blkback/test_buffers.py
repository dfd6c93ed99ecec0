"""Pages that a native ring keeps for its next requests, and gives back: what max_buffer_pages bounds."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines.sides import FIRST_GOOD, NativeTwin, Setup

from xenblk.blkif import BlkifRequest, BlkifSegment

WRITE = 1
NR_RECORDS, PAGES = 128, 11
PATIENCE_S = 20.0


class Copier:
    """A ring of 128 records in copy mode, whose requests are 11 pages each."""

    def __init__(self, folder: Path, charged: bool = True) -> None:
        setup = Setup(grant_copy=True, charged=charged, disk="tmpfs", page_order=2, sector_size=512)
        self.twin = NativeTwin(setup, folder)
        self.server = self.twin._server

    def put(self, number: int) -> None:
        guest = self.twin.guest
        segments = tuple(BlkifSegment(FIRST_GOOD + n, 0, 7) for n in range(PAGES))
        guest.put(guest.abi.pack_request(BlkifRequest(WRITE, 0, number, 0, PAGES, segments)))
        guest.front.push()

    def write(self, count: int) -> None:
        """Requests, one after the other; each has a record of its own, because records are charged in turn."""
        for number in range(count):
            assert self.server.charge(number)
        for number in range(count):
            self.put(number)
            self.twin.serve()
            assert [answer.status for answer in self.twin.guest.answers()] == [0]

    def limit(self, max_buffer_pages: int) -> None:
        self.twin.parameters.change("max_buffer_pages", str(max_buffer_pages))
        self.twin.purge()


@pytest.fixture
def copier(tmp_path: Path) -> Iterator[Copier]:
    made = Copier(tmp_path)
    yield made
    made.twin.end()


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_no_more_are_kept_than_max_buffer_pages(copier: Copier) -> None:
    copier.write(NR_RECORDS)
    assert 1024 - PAGES < copier.server.buffer_pages <= 1024, "Linux's default"
    before = resident_pages()
    copier.limit(100)
    copier.write(NR_RECORDS)
    assert copier.server.buffer_pages == 99
    assert resident_pages() <= before - 800, "they are given back"
    copier.limit(1024)
    copier.write(NR_RECORDS)
    assert copier.server.buffer_pages > 1024 - PAGES, "a higher limit keeps more"
    copier.limit(0)
    copier.write(NR_RECORDS)
    assert copier.server.buffer_pages == 0


def test_what_is_kept_is_the_most_a_request_needed(tmp_path: Path) -> None:
    copier = Copier(tmp_path, charged=False)
    for _ in range(3):
        copier.put(1)
        copier.twin.serve()
    assert copier.server.buffer_pages == PAGES, "the last record is used first"
    copier.twin.end()


def test_a_ring_that_sleeps_gives_back_what_a_lower_limit_asks_for(tmp_path: Path) -> None:
    copier = Copier(tmp_path, charged=False)
    thread = threading.Thread(target=copier.server.run)
    copier.server.start()
    thread.start()
    copier.put(1)
    copier.twin.guest.channel.wake()
    _eventually(lambda: copier.server.buffer_pages == PAGES)
    copier.twin.parameters.change("max_buffer_pages", "10")
    _eventually(lambda: copier.server.buffer_pages == 0)
    copier.server.stop()
    thread.join()
    copier.twin.end()


def _eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.parametrize("persistent", [True, False])
def test_where_grants_are_mapped_nothing_is_kept_but_what_is_mapped(tmp_path: Path, persistent: bool) -> None:
    """Linux keeps pages to map into. Addresses without a page take none: that they are reserved costs no memory."""
    twin = NativeTwin(Setup(persistent=persistent, unused_s=1), tmp_path)
    segments = tuple(BlkifSegment(FIRST_GOOD + n, 0, 7) for n in range(PAGES))
    for number in range(50):
        twin.guest.put(twin.guest.abi.pack_request(BlkifRequest(WRITE, 0, number, 0, PAGES, segments)))
        twin.guest.front.push()
        twin.serve()
        assert [answer.status for answer in twin.guest.answers()] == [0]
    twin.now_s += 1
    twin.purge()
    assert twin.guest.pins() == 0
    assert twin.counters.map_pages == PAGES * (1 if persistent else 50)
    assert twin._server.buffer_pages == 0
    reserved = _reserved()
    assert max(size_kb for size_kb, _ in reserved) >= 512 * 4, "there is an arena"
    assert sum(resident_kb for _, resident_kb in reserved) == 0
    twin.end()


def _reserved() -> list[tuple[int, int]]:
    """Size and resident KiB of each part of our address space that cannot be touched."""
    found, inside = [], False
    for line in Path(f"/proc/{os.getpid()}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = words[1] == "---p"
        elif inside and words[0] == "Size:":
            size_kb = int(words[1])
        elif inside and words[0] == "Rss:":
            found.append((size_kb, int(words[1])))
    return found
