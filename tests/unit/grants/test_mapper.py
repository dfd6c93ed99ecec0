"""Map and unmap: what each check answers, and what the memory and the tables look like afterwards."""

import faulthandler
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE, Domid, GrantRef
from xenblk.errors import GrantError, UsageError
from xenblk.grants import CopySegment, GnttabDomain, GrantStatus

READING, WRITING = 8, 16
UNGRANTED = GrantRef(100)


def map_statuses(mapper: Any, domain: Any, refs: list[int], readonly: bool = False) -> list[GrantStatus]:
    mappings = mapper.map(domain, refs, readonly)
    mapper.unmap([mapping for mapping in mappings if mapping.page is not None])
    return [mapping.status for mapping in mappings]


def test_both_sides_see_one_page(world: Any) -> None:
    mapper = world.mapper()
    ref = world.grant(frame=5)
    (mapping,) = mapper.map(world.domain, [ref])
    assert (mapping.ref, mapping.status) == (ref, GrantStatus.OKAY)
    world.page(5)[:4] = b"ping"
    assert mapping.page[:4] == b"ping"
    mapping.page[-4:] = b"pong"
    assert world.page(5)[-4:] == b"pong"
    assert world.flags(ref) == 1 | READING | WRITING
    assert world.pins() == {ref: (0, 1)}
    assert mapper.mapped_pages == 1
    world.check()
    mapper.unmap([mapping])
    assert mapping.page is None
    assert mapper.mapped_pages == 0
    assert world.flags(ref) == 1
    world.check()


def test_a_read_only_mapping_sets_reading_alone(world: Any) -> None:
    mapper = world.mapper()
    ref = world.grant(readonly=True)
    mappings = mapper.map(world.domain, [ref], readonly=True)
    assert world.flags(ref) == 1 | 4 | READING
    assert map_statuses(mapper, world.domain, [ref]) == [GrantStatus.GENERAL_ERROR]
    assert world.flags(ref) == 1 | 4 | READING
    mapper.unmap(mappings)
    assert map_statuses(mapper, world.domain, [ref]) == [GrantStatus.GENERAL_ERROR]
    world.check()


def test_a_read_only_mapping_cannot_be_written(world: Any) -> None:
    mapper = world.mapper()
    mappings = mapper.map(world.domain, [world.grant()], readonly=True)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        mappings[0].page[0] = 1
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the store must not succeed"


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ((0, 0, 1), GrantStatus.GENERAL_ERROR),
        ((2, 0, 1), GrantStatus.GENERAL_ERROR),
        ((3, 0, 1), GrantStatus.GENERAL_ERROR),
        ((1, 3, 1), GrantStatus.GENERAL_ERROR),
        ((1 | 0x100, 0, 1), GrantStatus.GENERAL_ERROR),
        ((1 | 4, 0, 1), GrantStatus.GENERAL_ERROR),
        ((1, 0, 64), GrantStatus.BAD_PAGE),
        ((1, 0, 0xFFFFFFFF), GrantStatus.BAD_PAGE),
        ((1, 0, 63), GrantStatus.OKAY),
    ],
    ids=["unused", "transfer", "transitive", "other domain", "sub-page", "read-only", "beyond", "far beyond", "last"],
)
def test_status_of_each_kind_of_entry(world: Any, entry: tuple[int, int, int], status: GrantStatus) -> None:
    mapper = world.mapper()
    world.set_entry(UNGRANTED, *entry)
    assert map_statuses(mapper, world.domain, [UNGRANTED]) == [status]
    buffer = memoryview(bytearray(512))
    assert mapper.copy(world.domain, [CopySegment(UNGRANTED, 0, buffer, True)]) == [status]
    assert world.flags(UNGRANTED) == entry[0], "a failing call leaves the entry as it was"
    assert world.pins() == {}
    world.set_entry(UNGRANTED, 0, 0, 0)
    world.check()


def test_a_batch_gives_each_its_own_status(world: Any) -> None:
    """XSA-318: a status for every operation, whatever the others got."""
    mapper = world.mapper()
    good, other = world.grant(1), world.grant(2)
    refs = [good, 512, UNGRANTED, other, 0xFFFFFFFF, 0]
    assert map_statuses(mapper, world.domain, refs) == [
        GrantStatus.OKAY,
        GrantStatus.BAD_GNTREF,
        GrantStatus.GENERAL_ERROR,
        GrantStatus.OKAY,
        GrantStatus.BAD_GNTREF,
        GrantStatus.GENERAL_ERROR,
    ]
    assert mapper.map(world.domain, []) == []
    world.check()


def raw_map(mapper: Any, world: Any, **fields: int) -> int:
    op = ffi.new("struct xb_map_grant_ref *")
    op.host_addr, op.flags, op.dom = mapper._arena.address(0), lib.GNTMAP_host_map, world.domain.domid
    for name, value in fields.items():
        setattr(op, name, value)
    op.status = 1
    lib.xb_mapper_map(mapper.native, world.domain.native, op, 1, False)
    return int(op.status)


def test_order_of_the_checks(world: Any) -> None:
    mapper = world.mapper(nr_entries=1)
    ref = world.grant()
    assert raw_map(mapper, world, flags=0, dom=9, ref=9999) == GrantStatus.BAD_GNTREF
    assert raw_map(mapper, world, flags=1, dom=9, ref=9999) == GrantStatus.GENERAL_ERROR
    assert raw_map(mapper, world, flags=2 | 16, dom=9, ref=9999) == GrantStatus.GENERAL_ERROR
    assert raw_map(mapper, world, dom=9, ref=9999) == GrantStatus.BAD_DOMAIN
    assert raw_map(mapper, world, host_addr=4097, ref=ref) == GrantStatus.BAD_VIRT_ADDR
    assert raw_map(mapper, world, ref=512) == GrantStatus.BAD_GNTREF
    (held,) = mapper.map(world.domain, [ref])
    assert raw_map(mapper, world, ref=512) == GrantStatus.NO_SPACE, "no handle comes before a bad reference"
    mapper.unmap([held])
    world.check()


def test_a_failing_mmap_leaves_no_pin(world: Any) -> None:
    mapper = world.mapper()
    ref = world.grant()
    tables = world.domain
    broken = GnttabDomain(tables.domid, 1, -1, 64, tables.table[:], tables.active[:])
    assert map_statuses(mapper, broken, [ref]) == [GrantStatus.NO_SPACE]
    world.check()
    assert map_statuses(mapper, world.domain, [ref]) == [GrantStatus.OKAY]
    broken.close()


def test_maptrack_and_address_space_run_out(world: Any) -> None:
    ref = world.grant()
    few_handles = world.mapper(nr_entries=2)
    assert map_statuses(few_handles, world.domain, [ref] * 3) == [GrantStatus.OKAY, GrantStatus.OKAY, -13]
    few_pages = world.mapper(arena_pages=2)
    assert map_statuses(few_pages, world.domain, [ref] * 3) == [GrantStatus.NO_SPACE] * 3
    assert map_statuses(few_pages, world.domain, [ref] * 2) == [GrantStatus.OKAY] * 2
    with pytest.raises(GrantError, match="3 pages in a row"):
        few_pages.map_region(world.domain, [ref] * 3)
    world.check()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_reference_takes_255_pins_of_a_kind(world: Any, readonly: bool) -> None:
    mapper = world.mapper()
    ref = world.grant()
    held = mapper.map(world.domain, [ref] * 255, readonly)
    assert all(mapping.status == GrantStatus.OKAY for mapping in held)
    assert len({mapping.handle for mapping in held}) == 255
    assert map_statuses(mapper, world.domain, [ref], readonly) == [GrantStatus.GENERAL_ERROR]
    assert map_statuses(mapper, world.domain, [ref], not readonly) == [GrantStatus.OKAY]
    segment = CopySegment(ref, 0, memoryview(bytearray(8)), to_grant=not readonly)
    assert mapper.copy(world.domain, [segment]) == [GrantStatus.GENERAL_ERROR]
    world.check()
    mapper.unmap(held[:1])
    assert mapper.copy(world.domain, [segment]) == [GrantStatus.OKAY]
    mapper.unmap(held[1:])
    assert world.flags(ref) == 1
    world.check()


def test_flags_stay_until_the_last_unmap(world: Any) -> None:
    """XSA-230: each bit is cleared with the last pin of its kind."""
    one, two = world.mapper(), world.mapper()
    ref = world.grant()
    writes = one.map(world.domain, [ref, ref])
    reads = two.map(world.domain, [ref], readonly=True)
    one.unmap(writes[:1])
    assert world.flags(ref) == 1 | READING | WRITING
    one.unmap(writes[1:])
    assert world.flags(ref) == 1 | READING
    assert not world.table.end_access(ref)
    two.unmap(reads)
    assert world.flags(ref) == 1
    assert world.table.end_access(ref)


def test_another_domain_cannot_share_a_pinned_reference(world: Any) -> None:
    mapper, other = world.mapper(), world.mapper(domid=Domid(3))
    ref = world.grant()
    held = mapper.map(world.domain, [ref])
    world.set_entry(ref, 1 | READING | WRITING, 3, 1)
    assert map_statuses(other, world.domain, [ref]) == [GrantStatus.GENERAL_ERROR]
    world.set_entry(ref, 1 | READING | WRITING, 0, 1)
    mapper.unmap(held)
    world.check()


def test_a_pinned_reference_keeps_its_frame(world: Any) -> None:
    """XSA-411, XSA-500: what counts is the frame recorded at the first pin, whatever the entry says now."""
    mapper = world.mapper()
    ref = world.grant(frame=1)
    held = mapper.map(world.domain, [ref])
    world.page(1)[:3], world.page(2)[:3] = b"one", b"two"
    world.set_entry(ref, 1 | READING | WRITING, 0, 2)
    again = mapper.map(world.domain, [ref])
    assert again[0].page[:3] == b"one"
    buffer = memoryview(bytearray(3))
    assert mapper.copy(world.domain, [CopySegment(ref, 0, buffer, False)]) == [GrantStatus.OKAY]
    assert bytes(buffer) == b"one"
    mapper.unmap([*held, *again])
    assert mapper.copy(world.domain, [CopySegment(ref, 0, buffer, False)]) == [GrantStatus.OKAY]
    assert bytes(buffer) == b"two"


def test_a_grantor_that_flips_flags_ends_no_livelock(world: Any) -> None:
    """XSA-295: a map is tried a few times, then answered; other entries work meanwhile."""
    mapper = world.mapper()
    stable = world.grant(1)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for flags in (1, 0, 1 | 4, 2):
                world.set_entry(UNGRANTED, flags, 0, 1)

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    for _ in range(20):
        seen.update(map_statuses(mapper, world.domain, [UNGRANTED]))
        assert map_statuses(mapper, world.domain, [stable]) == [GrantStatus.OKAY]
    stop.set()
    thread.join()
    assert seen <= {GrantStatus.OKAY, GrantStatus.GENERAL_ERROR}
    assert world.pins() == {}


def raw_unmap(mapper: Any, domain: Any, handle: int, address: int) -> int:
    op = ffi.new("struct xb_unmap_grant_ref *")
    op.host_addr, op.handle, op.status = address, handle, 1
    lib.xb_mapper_unmap(mapper.native, domain.native, op, 1)
    return int(op.status)


def test_unmap_of_what_is_not_a_mapping(world: Any) -> None:
    mapper = world.mapper(nr_entries=4)
    (mapping,) = mapper.map(world.domain, [world.grant()])
    address = mapper._arena.address(mapping.slot)
    tables = world.domain
    stranger = GnttabDomain(Domid(8), 2, -1, 64, tables.table[:], tables.active[:])
    assert raw_unmap(mapper, tables, 4, address) == GrantStatus.BAD_HANDLE
    assert raw_unmap(mapper, tables, 3, address) == GrantStatus.BAD_HANDLE
    assert raw_unmap(mapper, tables, 0xFFFFFFFF, address) == GrantStatus.BAD_HANDLE
    assert raw_unmap(mapper, stranger, mapping.handle, address) == GrantStatus.BAD_HANDLE
    assert raw_unmap(mapper, tables, mapping.handle, address + 1) == GrantStatus.BAD_VIRT_ADDR
    mapping.page[:2] = b"ok"
    world.check()
    assert world.pins() == {mapping.ref: (0, 1)}
    stranger.close()


def test_unmap_without_address_keeps_mapping_and_pin(world: Any) -> None:
    """XSA-394: asked to unmap nothing, the hypervisor must not count anything down."""
    mapper = world.mapper()
    (mapping,) = mapper.map(world.domain, [world.grant()])
    for _ in range(3):
        assert raw_unmap(mapper, world.domain, mapping.handle, 0) == GrantStatus.OKAY
        world.check()
    assert world.pins() == {mapping.ref: (0, 1)}
    mapping.page[:2] = b"ok"
    mapper.unmap([mapping])
    assert world.pins() == {}


def test_two_threads_unmap_one_handle(world: Any) -> None:
    """XSA-218, XSA-224: one of them succeeds, the other has a bad handle, and the count is right."""
    mapper = world.mapper()
    ref = world.grant()
    go = threading.Barrier(2)
    statuses: list[int] = []
    handle = address = -1

    def unmap() -> None:
        for _ in range(200):
            go.wait()
            statuses.append(raw_unmap(mapper, world.domain, handle, address))
            go.wait()

    thread = threading.Thread(target=unmap)
    thread.start()
    for _ in range(200):
        (mapping,) = mapper.map(world.domain, [ref])
        handle, address = mapping.handle, mapper._arena.address(mapping.slot)
        go.wait()
        statuses.append(raw_unmap(mapper, world.domain, handle, address))
        go.wait()
        assert sorted(statuses) == [GrantStatus.BAD_HANDLE, GrantStatus.OKAY]
        statuses.clear()
        mapper._forget([mapping])
        mapper._arena.free(mapping.slot)
        world.check()
    thread.join()


def test_a_mapping_is_unmapped_once(world: Any) -> None:
    mapper = world.mapper()
    held = mapper.map(world.domain, [world.grant(1), world.grant(2), UNGRANTED])
    with pytest.raises(UsageError, match="1 are not mapped"):
        mapper.unmap(held)
    with pytest.raises(UsageError, match="and once"):
        mapper.unmap([held[0], held[0]])
    assert mapper.mapped_pages == 2
    mapper.unmap(held[:2])
    with pytest.raises(UsageError, match="2 are not mapped"):
        mapper.unmap(held[:2])
    mapper.unmap([])
    world.check()


def test_a_region_is_contiguous_and_all_or_nothing(world: Any) -> None:
    mapper = world.mapper()
    refs = [world.grant(frame) for frame in (9, 3, 6, 4)]
    for i, frame in enumerate((9, 3, 6, 4)):
        world.page(frame)[:1] = bytes([65 + i])
    region = mapper.map_region(world.domain, refs)
    assert bytes(region.view[::PAGE_SIZE]) == b"ABCD"
    assert region.view.nbytes == 4 * PAGE_SIZE
    region.unmap()
    assert mapper.mapped_pages == 0
    with pytest.raises(GrantError, match=f"reference {UNGRANTED} of domain 7") as raised:
        mapper.map_region(world.domain, [*refs, UNGRANTED])
    assert raised.value.status == GrantStatus.GENERAL_ERROR
    assert mapper.mapped_pages == 0
    world.check()


def test_close_unmaps_what_is_left(make_world: Callable[..., Any]) -> None:
    world = make_world()
    mapper = world.mapper()
    mapper.map(world.domain, [world.grant(1), world.grant(2)])
    mapper.map_region(world.domain, [world.grant(3)] * 3)
    mapper.close()
    world.mappers.remove(mapper)
    assert world.pins() == {}
    world.check()


def test_threads_map_unmap_and_copy_one_reference(world: Any) -> None:
    mapper = world.mapper()
    refs = [world.grant(1), world.grant(2)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        buffer = memoryview(bytearray(64))
        try:
            for turn in range(60):
                held = mapper.map(world.domain, refs * 2, readonly=bool((turn + number) % 2))
                assert all(mapping.status == GrantStatus.OKAY for mapping in held)
                segments = [CopySegment(ref, 64 * number, buffer, turn % 2 == 0) for ref in refs]
                assert mapper.copy(world.domain, segments) == [GrantStatus.OKAY] * 2
                mapper.unmap(held)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert world.pins() == {}
    assert mapper.mapped_pages == 0
    world.check()
