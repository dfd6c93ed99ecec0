"""What a mapper makes of a batch: in which order it unmaps, and that closing it unmaps all."""

from typing import Any

import pytest

from xenblk._native import lib
from xenblk.abi import PAGE_SIZE


class UnmapSpy:
    """The compiled module, and the pages that each unmap asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def xb_mapper_unmap(self, native: Any, grantor: Any, ops: Any, count: int) -> None:
        self.asked.append([op.host_addr // PAGE_SIZE for op in ops])
        lib.xb_mapper_unmap(native, grantor, ops, count)


def test_a_batch_is_unmapped_in_the_order_of_its_pages(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that follow each other are one system call only if their operations do."""
    mapper = world.mapper()
    held = mapper.map(world.domain, [world.grant(frame) for frame in range(1, 9)])
    first = mapper._arena.address(held[0].slot) // PAGE_SIZE
    spy = UnmapSpy()
    monkeypatch.setattr("xenblk.grants.mapper.lib", spy)
    mapper.unmap([held[number] for number in (5, 0, 3, 1, 4, 2)])
    mapper.close()
    assert spy.asked == [[first + page for page in range(6)], [first + 6, first + 7]]
    world.check()


def test_a_closed_mapper_holds_nothing_of_any_domain(world: Any, make_world: Any) -> None:
    other = make_world()
    mapper = world.mapper()
    for each in (world, other):
        mapper.map(each.domain, [each.grant(1), each.grant(2)])
    mapper.close()
    assert world.pins() == other.pins() == {}
    assert mapper.mapped_pages == 0
