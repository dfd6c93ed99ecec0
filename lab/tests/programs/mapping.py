"""In domain 0: what Linux's gntdev and evtchn do with what a domain, itself, grants and binds."""

import mmap
import threading

from xenblk.abi import PAGE_SIZE, Domid, GrantRef
from xenblk.errors import GrantError, HostError
from xenblk.grants import CopySegment, ForeignDomain, GrantStatus
from xenblk.xen.platform import XenPlatform

SELF = Domid(0)
NOT_GRANTED = GrantRef(30000)
DEADLINE_S = 30.0
ROUNDS = 200


def main() -> None:
    """Each step says what holds, or is an assertion's end."""
    platform = XenPlatform()
    domain = platform.foreign_domain(SELF)
    run = platform.memory.allocate_run(8)
    view = platform.memory.join(run)
    refs = platform.grant_table.grant(SELF, [page.frame for page in run])
    for number in range(8):
        view[number * PAGE_SIZE] = number + 1
    _rows(platform, domain, refs)
    _single_pages(platform, domain, refs)
    _read_only(platform, domain)
    _copies(platform, domain, refs)
    _beside_other_threads(platform, domain, refs)
    _events(platform)
    platform.release_domain(domain)
    view.release()
    for page in run:
        platform.memory.free_page(page)
    platform.close()


def _rows(platform: XenPlatform, domain: ForeignDomain, refs: list[GrantRef]) -> None:
    for _ in range(3):
        region = platform.mapper.map_region(domain, refs)
        assert [region.view[number * PAGE_SIZE] for number in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
        region.unmap()
    try:
        platform.mapper.map_region(domain, [*refs[:3], NOT_GRANTED, *refs[4:]])
    except GrantError as error:
        print(f"a row with a page that is not granted: {error}")
    assert platform.mapper.mapped_pages == 0
    platform.mapper.map_region(domain, refs).unmap()
    print("a row is mapped and unmapped as one")


def _single_pages(platform: XenPlatform, domain: ForeignDomain, refs: list[GrantRef]) -> None:
    mapped = platform.mapper.map(domain, [*refs[:4], NOT_GRANTED, *refs[4:]])
    statuses = [mapping.status for mapping in mapped]
    assert statuses == [GrantStatus.OKAY] * 4 + [GrantStatus.GENERAL_ERROR] + [GrantStatus.OKAY] * 4
    good = [mapping for mapping in mapped if mapping.page is not None]
    platform.mapper.unmap(good[2:4])
    platform.mapper.unmap([good[7], good[0]])
    assert [mapping.page[0] for mapping in good if mapping.page is not None] == [2, 5, 6, 7]
    platform.mapper.unmap([mapping for mapping in good if mapping.page is not None])
    print("single pages are unmapped in any order, and one that is not granted fails alone")


def _read_only(platform: XenPlatform, domain: ForeignDomain) -> None:
    page = platform.memory.allocate_page()
    page.view[:4] = b"read"
    (ref,) = platform.grant_table.grant(SELF, [page.frame], readonly=True)
    (refused,) = platform.mapper.map(domain, [ref])
    (mapping,) = platform.mapper.map(domain, [ref], readonly=True)
    assert refused.page is None
    assert mapping.page is not None
    assert bytes(mapping.page[:4]) == b"read"
    platform.mapper.unmap([mapping])
    platform.memory.free_page(page)
    print("what is granted for reading cannot be mapped for writing")


def _copies(platform: XenPlatform, domain: ForeignDomain, refs: list[GrantRef]) -> None:
    out = [bytearray(512) for _ in range(100)]
    segments = [CopySegment(refs[at % 8], 1024, memoryview(bytes([at]) * 512), to_grant=True) for at in range(len(out))]
    assert set(platform.mapper.copy(domain, segments)) == {GrantStatus.OKAY}
    back = [CopySegment(refs[at % 8], 1024, memoryview(buffer), to_grant=False) for at, buffer in enumerate(out)]
    assert set(platform.mapper.copy(domain, back)) == {GrantStatus.OKAY}
    assert all(buffer == bytes([92 + (at - 92) % 8]) * 512 for at, buffer in enumerate(out))
    wrong = [back[0], CopySegment(NOT_GRANTED, 0, memoryview(out[1]), to_grant=False), back[2]]
    wrong += [CopySegment(refs[0], PAGE_SIZE - 1, memoryview(out[3]), to_grant=False)]
    statuses = platform.mapper.copy(domain, wrong)
    assert statuses[0] == statuses[2] == GrantStatus.OKAY
    assert statuses[3] == GrantStatus.BAD_COPY_ARG
    print(f"copies move what they name; a reference that is not granted: {statuses[1].name}")


def _beside_other_threads(platform: XenPlatform, domain: ForeignDomain, refs: list[GrantRef]) -> None:
    """A page that is not granted tears a hole into the addresses; what another thread maps must not get into it."""
    stop = threading.Event()

    def take_addresses() -> None:
        while not stop.is_set():
            for taken in [mmap.mmap(-1, PAGE_SIZE * size) for size in (1, 1, 2, 8)]:
                taken[0] = 1
                taken.close()

    thread = threading.Thread(target=take_addresses)
    thread.start()
    for number in range(ROUNDS):
        ref = refs[number % 8]
        mapped = platform.mapper.map(domain, [NOT_GRANTED, ref, NOT_GRANTED])
        assert [mapping.page is not None for mapping in mapped] == [False, True, False]
        assert mapped[1].page is not None
        assert mapped[1].page[0] == number % 8 + 1
        platform.mapper.unmap([mapped[1]])
    stop.set()
    thread.join()
    print(f"{ROUNDS} rounds beside a thread that maps what it likes")


def _events(platform: XenPlatform) -> None:
    ours = platform.alloc_unbound(SELF)
    theirs = platform.bind_interdomain(SELF, ours.port)
    assert theirs.wait(DEADLINE_S), "the end that binds has an event at once"
    ours.wait(0)
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        for _ in range(50):
            sender.notify()
            assert receiver.wait(DEADLINE_S)
        assert not receiver.wait(0)
        sender.notify()
        sender.notify()
        assert receiver.wait(DEADLINE_S)
        receiver.wait(0)
        assert not receiver.wait(0)
    waker = threading.Timer(0.05, ours.wake)
    waker.start()
    ours.wait(None)
    waker.join()
    theirs.close()
    ours.notify()
    ours.close()
    try:
        platform.bind_interdomain(SELF, ours.port)
    except HostError as error:
        print(f"a port that is not there: {error}")
    print("events arrive, and are one until they are taken")


main()
