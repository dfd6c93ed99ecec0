"""The granting side, by itself and against a mapper."""

import threading
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.errors import GrantError
from xenblk.grants import GrantStatus, GrantTable


def table(nr_entries: int = 16) -> GrantTable:
    return GrantTable(memoryview(bytearray(nr_entries * 8)))


def test_reserved_references_are_never_handed_out() -> None:
    grants = table()
    refs = [grants.allocate() for _ in range(8)]
    assert sorted(refs) == list(range(8, 16))
    with pytest.raises(GrantError, match="all 8 grant references") as raised:
        grants.allocate()
    assert raised.value.status == GrantStatus.NO_SPACE
    grants.free(refs[3])
    assert grants.free_count == 1
    assert grants.allocate() == refs[3]
    grants._check()


def test_the_entry_is_what_xen_reads() -> None:
    memory = bytearray(128)
    grants = GrantTable(memoryview(memory))
    ref = grants.allocate()
    grants.grant_access(ref, Domid(7), 0x00ABCDEF, readonly=True)
    assert memory[ref * 8 : ref * 8 + 8].hex() == "05000700efcdab00"
    assert grants.end_access(ref)
    assert memory[ref * 8 : ref * 8 + 2] == bytes(2)


@pytest.mark.parametrize("flags", [1 | 8, 1 | 16, 1 | 8 | 16])
def test_access_does_not_end_while_the_other_domain_uses_the_page(flags: int) -> None:
    memory = bytearray(128)
    grants = GrantTable(memoryview(memory))
    ref = grants.allocate()
    grants.grant_access(ref, Domid(7), 3)
    memory[ref * 8] = flags
    before = bytes(memory)
    assert not grants.end_access(ref)
    assert bytes(memory) == before
    memory[ref * 8] = 1
    assert grants.end_access(ref)


def test_our_own_mistakes_are_caught() -> None:
    grants = table()
    ref = grants.allocate()
    grants.grant_access(ref, Domid(7), 3)
    with pytest.raises(AssertionError, match="before its access ended"):
        grants.free(ref)
    with pytest.raises(AssertionError, match="granted already"):
        grants.grant_access(ref, Domid(7), 4)
    assert grants.end_access(ref)
    grants.free(ref)
    with pytest.raises(AssertionError, match="not allocated"):
        grants.free(ref)


def test_threads_never_share_a_reference() -> None:
    grants = table(512)
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int]) -> None:
        for _ in range(126):
            mine.append(grants.allocate())

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ref for mine in taken for ref in mine) == list(range(8, 512))
    assert grants.free_count == 0


def test_end_access_races_with_map(world: Any) -> None:
    """XSA-396: either the mapping exists and the access does not end, or it ended and there is no mapping."""
    mapper = world.mapper()
    go, stop = threading.Barrier(2), threading.Event()
    ref = world.table.allocate()
    mapped: list[Any] = []

    def keep_mapping() -> None:
        while True:
            go.wait()
            if stop.is_set():
                return
            mapped[:] = mapper.map(world.domain, [ref])
            go.wait()

    thread = threading.Thread(target=keep_mapping)
    thread.start()
    for _ in range(300):
        world.table.grant_access(ref, world.backend, 1)
        go.wait()
        ended = world.table.end_access(ref)
        go.wait()
        assert ended == (mapped[0].page is None)
        if not ended:
            mapper.unmap(mapped)
            assert world.table.end_access(ref)
        world.check()
    stop.set()
    go.wait()
    thread.join()


def test_frames_that_are_granted(world: Any) -> None:
    ref = world.table.allocate()
    assert not world.table.grants(0, world.nr_frames)
    world.table.grant_access(ref, world.backend, 5)
    assert [world.table.grants(frame, 2) for frame in range(3, 8)] == [False, True, True, False, False]
    assert world.table.grants(5)
    assert world.table.grants(0, 0xFFFFFFFF)
    assert world.table.end_access(ref)
    assert not world.table.grants(5)
