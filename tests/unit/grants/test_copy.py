"""Grant copy: both directions, within one page, as far as the grant allows."""

from typing import Any

import pytest

from xenblk.abi import GrantRef
from xenblk.grants import CopySegment, GrantStatus

UNGRANTED = GrantRef(100)


def test_copy_both_ways(world: Any) -> None:
    mapper = world.mapper()
    ref = world.grant(frame=3)
    world.page(3)[:] = bytes(range(256)) * 16
    into, out = memoryview(bytearray(b"x" * 100)), memoryview(b"written")
    statuses = mapper.copy(world.domain, [CopySegment(ref, 4000 - 4, into, False), CopySegment(ref, 4089, out, True)])
    assert statuses == [GrantStatus.OKAY, GrantStatus.OKAY]
    assert bytes(into) == (bytes(range(256)) * 16)[3996:]
    assert bytes(world.page(3)) == (bytes(range(256)) * 16)[:4089] + b"written"
    assert mapper.mapped_pages == 0
    assert world.flags(ref) == 1
    world.check()


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (0, 4096, GrantStatus.OKAY),
        (4095, 1, GrantStatus.OKAY),
        (1, 4096, GrantStatus.BAD_COPY_ARG),
        (4096, 1, GrantStatus.BAD_COPY_ARG),
        (0xFFFF, 0xFFFF, GrantStatus.BAD_COPY_ARG),
    ],
)
def test_a_copy_stays_in_its_page(world: Any, offset: int, length: int, status: GrantStatus) -> None:
    mapper = world.mapper()
    ref = world.grant(frame=3)
    buffer = memoryview(bytearray(b"y" * length))
    assert mapper.copy(world.domain, [CopySegment(ref, offset, buffer, True)]) == [status]
    assert not any(world.page(2))
    assert not any(world.page(4))
    assert mapper.copy(world.domain, [CopySegment(UNGRANTED, offset, buffer, True)])[0] != GrantStatus.OKAY
    world.check()


def test_a_copy_of_nothing_looks_at_nothing(world: Any) -> None:
    mapper = world.mapper()
    nothing = memoryview(bytearray(0))
    assert mapper.copy(world.domain, [CopySegment(GrantRef(0xFFFFFFFF), 5000, nothing, True)]) == [GrantStatus.OKAY]


def test_a_copy_obeys_read_only(world: Any) -> None:
    mapper = world.mapper()
    ref = world.grant(frame=3, readonly=True)
    world.page(3)[:4] = b"kept"
    buffer = memoryview(bytearray(4))
    assert mapper.copy(world.domain, [CopySegment(ref, 0, memoryview(b"lost"), True)]) == [GrantStatus.GENERAL_ERROR]
    assert mapper.copy(world.domain, [CopySegment(ref, 0, buffer, False)]) == [GrantStatus.OKAY]
    assert bytes(buffer) == b"kept"
