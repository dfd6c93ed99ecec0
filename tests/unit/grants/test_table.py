"""The granting side, by itself and against a mapper."""

import threading
from typing import Any

import pytest

from xenblk.abi import Domid, GrantRef
from xenblk.errors import GrantError
from xenblk.grants import GrantStatus, GrantTableV1

OTHER = Domid(7)


def table(nr_entries: int = 16) -> GrantTableV1:
    return GrantTableV1(memoryview(bytearray(nr_entries * 8)))


def test_reserved_references_are_never_handed_out() -> None:
    grants = table()
    refs = grants.grant(OTHER, range(5)) + grants.grant(OTHER, range(3))
    assert refs == list(range(8, 16))
    with pytest.raises(GrantError, match="0 of 8 grant references are free, and 1 were asked for") as raised:
        grants.grant(OTHER, [0])
    assert raised.value.status == GrantStatus.NO_SPACE
    assert grants.end_access(refs[3])
    assert grants.end_access(refs[6])
    assert grants.free_count == 2
    assert grants.grant(OTHER, [4, 5]) == [refs[6], refs[3]]
    grants._check()


def test_all_or_nothing() -> None:
    memory = bytearray(128)
    grants = GrantTableV1(memoryview(memory))
    with pytest.raises(GrantError, match="8 of 8 grant references are free, and 9 were asked for"):
        grants.grant(OTHER, range(9))
    assert memory == bytes(128)
    assert grants.free_count == 8
    assert grants.grant(OTHER, []) == []


def test_the_entry_is_what_xen_reads() -> None:
    memory = bytearray(128)
    grants = GrantTableV1(memoryview(memory))
    (ref,) = grants.grant(OTHER, [0x00ABCDEF], readonly=True)
    assert memory[ref * 8 : ref * 8 + 8].hex() == "05000700efcdab00"
    assert grants.end_access(ref)
    assert memory[ref * 8 : ref * 8 + 2] == bytes(2)


@pytest.mark.parametrize("flags", [1 | 8, 1 | 16, 1 | 8 | 16])
def test_access_does_not_end_while_the_other_domain_uses_the_page(flags: int) -> None:
    memory = bytearray(128)
    grants = GrantTableV1(memoryview(memory))
    (ref,) = grants.grant(OTHER, [3])
    memory[ref * 8] = flags
    before = bytes(memory)
    assert not grants.end_access(ref)
    assert bytes(memory) == before
    memory[ref * 8] = 1
    assert grants.end_access(ref)


def test_our_own_mistakes_are_caught() -> None:
    grants = table()
    (ref,) = grants.grant(OTHER, [3])
    assert grants.end_access(ref)
    with pytest.raises(AssertionError, match=f"access to reference {ref} ends, but it is not granted"):
        grants.end_access(ref)
    with pytest.raises(AssertionError, match="reference 16 is not one of 16"):
        grants.flags(GrantRef(16))


def test_threads_never_share_a_reference() -> None:
    grants = table(512)
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int]) -> None:
        for _ in range(126):
            mine.extend(grants.grant(OTHER, [0]))

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
    granted: list[GrantRef] = []
    mapped: list[Any] = []

    def keep_mapping() -> None:
        while True:
            go.wait()
            if stop.is_set():
                return
            mapped[:] = mapper.map(world.domain, granted)
            go.wait()

    thread = threading.Thread(target=keep_mapping)
    thread.start()
    for _ in range(300):
        granted[:] = world.table.grant(world.backend, [1])
        go.wait()
        ended = world.table.end_access(granted[0])
        go.wait()
        assert ended == (mapped[0].page is None)
        if not ended:
            mapper.unmap(mapped)
            assert world.table.end_access(granted[0])
        world.check()
    stop.set()
    go.wait()
    thread.join()


def test_frames_that_are_granted(world: Any) -> None:
    assert not world.table.grants(0, world.nr_frames)
    (ref,) = world.table.grant(world.backend, [5])
    assert [world.table.grants(frame, 2) for frame in range(3, 8)] == [False, True, True, False, False]
    assert world.table.grants(5)
    assert world.table.grants(0, 0xFFFFFFFF)
    assert world.table.end_access(ref)
    assert not world.table.grants(5)
