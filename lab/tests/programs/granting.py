"""In domain 0: what Linux's gntalloc does with the pages that it grants, seen from both sides."""

from xenblk.abi import PAGE_SIZE, Domid
from xenblk.errors import GrantError
from xenblk.grants import Page
from xenblk.xen.platform import XenPlatform

SELF = Domid(0)


def main() -> None:
    """Each step says what holds, or is an assertion's end."""
    platform = XenPlatform()
    _from_birth_to_death(platform)
    _the_limit(platform)
    platform.close()


def _from_birth_to_death(platform: XenPlatform) -> None:
    memory, table = platform.memory, platform.grant_table
    run = memory.allocate_run(4)
    view = memory.join(run)
    view[:] = bytes(range(256)) * 64
    refs = table.grant(SELF, _frames(run))
    assert bytes(view) == bytes(range(256)) * 64
    assert table.grant(SELF, _frames(run)) == refs
    print("granted pages keep their content, and their references")
    domain = platform.foreign_domain(SELF)
    mapped = platform.mapper.map(domain, refs)
    pages = [mapping.page for mapping in mapped]
    assert all(page is not None and bytes(page) == bytes(range(256)) * 16 for page in pages)
    assert pages[2] is not None
    pages[2][:4], view[:4] = b"back", b"here"
    assert bytes(view[2 * PAGE_SIZE :][:4]) == b"back"
    assert pages[0] is not None
    assert bytes(pages[0][:4]) == b"here"
    print("both sides see the same page")
    view.release()
    _free(platform, run)
    assert memory.granted_pages == 0
    fresh = memory.allocate_run(4)
    assert all(bytes(page.view) == bytes(PAGE_SIZE) for page in fresh)
    assert bytes(pages[2][:4]) == b"back"
    print("a page that is freed while it is mapped goes on for who maps it, and is another for us")
    del pages
    platform.mapper.unmap(mapped)
    platform.release_domain(domain)
    _free(platform, fresh)


def _the_limit(platform: XenPlatform) -> None:
    pages = [platform.memory.allocate_page() for _ in range(1100)]
    granted = 0
    try:
        for granted in range(0, len(pages), 11):
            platform.grant_table.grant(SELF, _frames(pages[granted : granted + 11]))
    except GrantError as error:
        print(f"after {granted}: {error}")
    _free(platform, pages)
    assert platform.memory.granted_pages == 0
    platform.grant_table.grant(SELF, _frames(platform.memory.allocate_run(512)))
    print("what is freed can be granted again")


def _frames(pages: list[Page]) -> list[int]:
    return [page.frame for page in pages]


def _free(platform: XenPlatform, pages: list[Page]) -> None:
    for page in pages:
        platform.memory.free_page(page)


main()
