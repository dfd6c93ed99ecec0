"""Memory and grant table of real Xen, on a device of our own."""

from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import PAGE_SIZE, Domid
from xenblk.errors import GrantError, UsageError
from xenblk.grants import GrantStatus
from xenblk.xen.memory import XenMemory

BACKEND, OTHER = Domid(0), Domid(5)


def test_pages_are_zero_and_apart(domain_of: Callable[..., Any]) -> None:
    memory = domain_of().memory
    pages = [memory.allocate_page() for _ in range(3)]
    assert all(bytes(page.view) == bytes(PAGE_SIZE) for page in pages)
    for number, page in enumerate(pages):
        page.view[:] = bytes([number + 1]) * PAGE_SIZE
    assert [page.view[7] for page in pages] == [1, 2, 3]
    assert memory.granted_pages == 0


def test_views_stay_what_they_are_when_their_page_is_granted(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    run = domain.memory.allocate_run(3)
    joined = domain.memory.join(run)
    joined[:] = bytes(range(256)) * 48
    refs = domain.table.grant(BACKEND, [page.frame for page in run])
    assert domain.device.nr_allocs == 1
    assert [domain.device.grants[ref] for ref in refs] == [(BACKEND, True)] * 3
    assert bytes(joined) == bytes(range(256)) * 48 == b"".join(domain.device.page(ref) for ref in refs)
    domain.device.page(refs[1])[:4] = b"back"
    assert bytes(joined[PAGE_SIZE : PAGE_SIZE + 4]) == bytes(run[1].view[:4]) == b"back"
    assert domain.memory.locate(joined[PAGE_SIZE + 512 :]) == (run[1].frame, 512)


def test_a_page_keeps_its_reference_until_it_is_freed(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    page = domain.memory.allocate_page()
    (ref,) = domain.table.grant(BACKEND, [page.frame])
    page.view[:6] = b"secret"
    assert domain.table.end_access(ref)
    assert domain.table.grant(BACKEND, [page.frame]) == [ref]
    assert domain.device.nr_allocs == 1
    domain.memory.free_page(page)
    assert domain.device.grants == {}
    again = domain.memory.allocate_page()
    assert again.frame == page.frame
    assert bytes(again.view) == bytes(PAGE_SIZE)
    assert domain.table.grant(OTHER, [again.frame], readonly=True) != [ref]
    assert [*domain.device.grants.values()] == [(OTHER, False)]


def test_pages_that_are_freed_together_go_together(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    pages = domain.memory.allocate_pages(40)
    domain.table.grant(BACKEND, [page.frame for page in pages[10:30]])
    domain.memory.free_pages(reversed(pages))
    assert domain.device.grants == {}
    assert domain.device.nr_deallocs == 1
    again = domain.memory.allocate_pages(40)
    assert [page.frame for page in again] == sorted(page.frame for page in again), "a run, to be granted as one"
    domain.table.grant(BACKEND, [page.frame for page in again])
    assert domain.device.nr_allocs == 2


def test_a_page_is_one_domains(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    page = domain.memory.allocate_page()
    domain.table.grant(BACKEND, [page.frame])
    with pytest.raises(GrantError, match="granted to one domain cannot be granted to another"):
        domain.table.grant(OTHER, [page.frame])
    with pytest.raises(GrantError, match="or otherwise, before it is freed"):
        domain.table.grant(BACKEND, [page.frame], readonly=True)
    with pytest.raises(GrantError, match="is not one of the 2048"):
        domain.table.grant(BACKEND, [2048])


def test_the_limit_is_named(domain_of: Callable[..., Any]) -> None:
    domain = domain_of(limit=4)
    pages = domain.memory.allocate_run(5)
    with pytest.raises(GrantError, match=r"5 pages more .*xen_gntalloc/parameters/limit") as raised:
        domain.table.grant(BACKEND, [page.frame for page in pages])
    assert raised.value.status == GrantStatus.NO_SPACE
    assert domain.device.grants == {}
    domain.table.grant(BACKEND, [page.frame for page in pages[:4]])
    with pytest.raises(GrantError, match="this one has 4"):
        domain.table.prepare(BACKEND, [pages[4].frame])
    domain.memory.free_page(pages[0])
    domain.table.prepare(BACKEND, [pages[4].frame])
    assert domain.memory.granted_pages == 4


def test_who_maps_a_page_cannot_be_seen(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    (ref,) = domain.table.grant(BACKEND, [domain.memory.allocate_page().frame])
    assert not domain.table.sees_mappings
    assert not domain.table.grants(0, 2048)
    with pytest.raises(UsageError, match="does not show who maps a page"):
        domain.table.flags(ref)


def test_what_ends_later_ends_at_once(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    page = domain.memory.allocate_page()
    (ref,) = domain.table.grant(BACKEND, [page.frame])
    domain.table.end_access_later(ref, lambda: domain.memory.free_page(page))
    assert domain.table.end_deferred() == 0
    assert domain.device.grants == {}


def test_closing_while_a_page_is_in_use(domain_of: Callable[..., Any]) -> None:
    domain = domain_of()
    page = domain.memory.allocate_page()
    page.view[:4] = b"here"
    domain.table.grant(BACKEND, [page.frame])
    domain.memory.close()
    assert bytes(page.view[:4]) == b"here"
    domain.memory.free_page(page)


def test_no_addresses_no_leak(domain_of: Callable[..., Any]) -> None:
    memory: XenMemory = domain_of(nr_frames=8).memory
    memory.allocate_run(8)
    with pytest.raises(UsageError, match="the domain's memory is used up"):
        memory.allocate_page()


def test_all_pages_or_none(domain_of: Callable[..., Any]) -> None:
    memory: XenMemory = domain_of(nr_frames=8).memory
    memory.free_pages(memory.allocate_pages(4))
    with pytest.raises(UsageError, match="the domain's memory is used up"):
        memory.allocate_pages(9)
    assert len({page.frame for page in memory.allocate_pages(8)}) == 8
