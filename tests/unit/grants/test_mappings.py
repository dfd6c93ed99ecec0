"""A process that has mapped all that it may can still unmap: the kernel's limit on mappings is never reached."""

from pathlib import Path
from typing import Any

from xenblk.abi import GrantRef
from xenblk.grants import GrantStatus
from xenblk.grants.mappings import MAPPINGS_PER_PAGE, SHARE_OF_OTHERS, max_mapped_pages

NR_GRANTS, NR_FRAMES = 2048, 4096
ROW = range(8, 1008)
SCATTERED = range(1100, NR_GRANTS)


def test_the_limit_follows_the_system() -> None:
    allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    worst = MAPPINGS_PER_PAGE * max_mapped_pages()
    assert allowed - allowed // SHARE_OF_OTHERS - MAPPINGS_PER_PAGE < worst <= allowed - allowed // SHARE_OF_OTHERS


def test_no_more_pages_than_the_limit_are_mapped(world: Any) -> None:
    mapper = world.mapper(max_pages=4)
    refs = [world.grant(frame) for frame in range(1, 7)]
    mappings = mapper.map(world.domain, refs)
    assert [mapping.status for mapping in mappings] == [GrantStatus.OKAY] * 4 + [GrantStatus.NO_SPACE] * 2
    assert mapper.is_crowded
    mapper.unmap(mappings[:2])
    assert not mapper.is_crowded
    assert [mapping.status for mapping in mapper.map(world.domain, refs[4:])] == [GrantStatus.OKAY] * 2
    world.check()


def test_regression_what_is_mapped_can_be_unmapped_when_nothing_more_can_be_mapped(make_world: Any) -> None:
    """Pages in a row are one mapping to the kernel, and taking one out of the middle makes three of it."""
    world = make_world(nr_frames=NR_FRAMES, nr_entries=NR_GRANTS)
    for ref in ROW:
        world.set_entry(ref, 1, 0, ref)
    for ref in SCATTERED:
        world.set_entry(ref, 1, 0, 2 * ref % NR_FRAMES)
    nr_pages = 3 * max_mapped_pages()
    mapper = world.mapper(arena_pages=nr_pages, nr_entries=nr_pages)
    row = mapper.map(world.domain, [GrantRef(ref) for ref in ROW])
    while all(
        mapping.status == GrantStatus.OKAY for mapping in mapper.map(world.domain, [GrantRef(ref) for ref in SCATTERED])
    ):
        assert mapper.mapped_pages < nr_pages
    mapper.unmap(row[1::2])
    assert world.pins().keys() == {*ROW[::2], *SCATTERED}
