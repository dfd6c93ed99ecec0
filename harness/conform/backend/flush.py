"""Cases: flushes, barriers and discards."""

import os
from collections.abc import Callable

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import BLKIF_DISCARD_SECURE, X86_32, X86_64, Abi, BlkifOp, BlkifStatus, DiscardRequest
from xenblk.harness.conform.backend.lab import BACKEND, PAGE_SECTORS, Guest, Lab
from xenblk.harness.conform.case import Body, expect, require

FLUSH, BARRIER = BlkifOp.FLUSH_DISKCACHE, BlkifOp.WRITE_BARRIER
ERROR = BlkifStatus.ERROR

_KINDS = (
    ("FLUSH", FLUSH, "feature-flush-cache", "io/blkif.h BLKIF_OP_FLUSH_DISKCACHE"),
    ("BARRIER", BARRIER, "feature-barrier", "io/blkif.h BLKIF_OP_WRITE_BARRIER"),
)


def _offered(lab: Lab, key: str, mode: str = "w") -> Guest:
    guest = lab.connected(mode=mode)
    guest.require(key)
    return guest


def _register(name: str, operation: BlkifOp, key: str, source: str) -> None:
    word = name.lower()

    def case(number: int, title: str, where: str = source) -> Callable[[Body[Lab]], Body[Lab]]:
        return BACKEND.case(f"B-{name}-{number:03}", f"a {word} {title}", where)

    @case(1, "without segments is done")
    def _empty(lab: Lab) -> None:
        guest = _offered(lab, key)
        guest.answered(guest.request(operation))

    @case(2, "with data writes it")
    def _with_data(lab: Lab) -> None:
        guest = _offered(lab, key)
        data = os.urandom(3 * PAGE_SIZE)
        guest.write(8, data, operation)
        guest.holds(8, data)

    @case(3, "without segments may name any sector", "Linux dispatch_rw_block_io, range is checked if nr_sects != 0")
    def _beyond(lab: Lab) -> None:
        guest = _offered(lab, key)
        guest.answered(guest.request(operation, sector=guest.sectors + 1000))

    @case(4, "with data beyond the end fails", "Linux xen_vbd_translate")
    def _data_beyond(lab: Lab) -> None:
        guest = _offered(lab, key)
        guest.answered(guest.request(operation, guest.frontend.page().segment(), sector=guest.sectors - 1), ERROR)

    @case(5, "on a read-only disk fails, even an empty one", "Linux xen_vbd_translate, mode")
    def _readonly(lab: Lab) -> None:
        guest = _offered(lab, key, "r")
        guest.answered(guest.request(operation), ERROR)

    @case(6, "among writes keeps its place")
    def _ordered(lab: Lab) -> None:
        guest = _offered(lab, key)
        if operation == FLUSH:
            _flush_among_writes(guest)
        else:
            _barrier_among_writes(guest)

    @case(7, "that is not offered has a legal status", "io/blkif.h, feature nodes")
    def _not_offered(lab: Lab) -> str:
        guest = lab.connected()
        require(not guest.number(key), f"{key} is 1")
        (answer,) = guest.ask(guest.request(operation))
        expect(answer.status in tuple(BlkifStatus), f"the status of a {word} that is not offered is {answer.status}")
        return f"the status is {answer.status}"


def _flush_among_writes(guest: Guest) -> None:
    guest.need_small_sectors()
    data = [os.urandom(SECTOR_SIZE) for _ in range(20)]
    writes = [
        guest.request(BlkifOp.WRITE, guest.frontend.page(d).segment(0, 0), sector=at) for at, d in enumerate(data)
    ]
    answers = guest.ask(*writes[:10], guest.request(FLUSH), *writes[10:])
    expect(not any(a.status for a in answers), "a flush among writes, or one of them, failed")
    guest.holds(0, b"".join(data))


def _barrier_among_writes(guest: Guest) -> None:
    for _ in range(5):
        old, new, last = (guest.frontend.page(os.urandom(PAGE_SIZE)) for _ in range(3))
        before = [guest.request(BlkifOp.WRITE, old.segment(), sector=at * 8) for at in range(8)]
        barrier = guest.request(BARRIER, *[new.segment()] * 8, sector=0)
        after = [guest.request(BlkifOp.WRITE, last.segment(), sector=at * 8) for at in range(4)]
        answers = guest.ask(*before, barrier, *after)
        expect(not any(a.status for a in answers), "a barrier among writes, or one of them, failed")
        guest.holds(0, bytes(last.view) * 4 + bytes(new.view) * 4)


for _kind in _KINDS:
    _register(*_kind)

_DISCARD = "io/blkif.h BLKIF_OP_DISCARD"


def _discarding(lab: Lab, mode: str = "w", abi: Abi = X86_64) -> Guest:
    guest = lab.connected(abi, mode=mode)
    guest.require("feature-discard")
    return guest


def _discard(guest: Guest, sector: int, nr_sectors: int, flag: int = 0) -> DiscardRequest:
    return DiscardRequest(guest.handle, guest.new_id(), sector, nr_sectors, flag)


def _granule(guest: Guest) -> int:
    """Sectors of a discard that is aligned, a whole number of pages at least."""
    return max(guest.number("discard-granularity", SECTOR_SIZE) // SECTOR_SIZE, PAGE_SECTORS)


def _done(abi: Abi) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = _discarding(lab, abi=abi)
        unit = _granule(guest)
        edge = os.urandom(SECTOR_SIZE)
        guest.write(unit - 1, edge)
        guest.write(2 * unit, edge)
        guest.answered(_discard(guest, unit, unit))
        guest.holds(unit - 1, edge)
        guest.holds(2 * unit, edge)

    return body


for _number, _abi in enumerate((X86_64, X86_32), 1):
    BACKEND.case(f"B-DISCARD-{_number:03}", f"{_abi.protocol}: a discard leaves what is beside it alone", _DISCARD)(
        _done(_abi)
    )


@BACKEND.case("B-DISCARD-003", "a discard beyond the end fails", "Linux dispatch_discard_io; CVE-2013-2140")
def _discard_beyond(lab: Lab) -> None:
    guest = _discarding(lab)
    guest.answered(_discard(guest, guest.sectors - 8, 16), ERROR)
    guest.answered(_discard(guest, guest.sectors + 8, 8), ERROR)


@BACKEND.case("B-DISCARD-004", "a discard whose end wraps fails", "Linux xen_vbd_translate")
def _discard_wraps(lab: Lab) -> None:
    guest = _discarding(lab)
    guest.answered(_discard(guest, (1 << 64) - 8, 16), ERROR)
    guest.answered(_discard(guest, 8, (1 << 64) - 8), ERROR)


@BACKEND.case(
    "B-DISCARD-005", "the secure flag means nothing where discard-secure is not offered", "Linux dispatch_discard_io"
)
def _secure_ignored(lab: Lab) -> None:
    guest = _discarding(lab)
    require(not guest.number("discard-secure"), "discard-secure is offered")
    guest.answered(_discard(guest, 0, _granule(guest), BLKIF_DISCARD_SECURE))


@BACKEND.case("B-DISCARD-006", "a secure discard is done where it is offered", "io/blkif.h discard-secure")
def _secure(lab: Lab) -> None:
    guest = _discarding(lab)
    guest.require("discard-secure")
    unit = _granule(guest)
    guest.write(0, b"\x55" * PAGE_SIZE)
    guest.answered(_discard(guest, 0, unit, BLKIF_DISCARD_SECURE))
    expect(guest.read(0, PAGE_SIZE) != b"\x55" * PAGE_SIZE, "what was discarded securely can be read")


@BACKEND.case(
    "B-DISCARD-007", "granularity and alignment are both published", "io/blkif.h; older Linux frontends want both"
)
def _nodes(lab: Lab) -> None:
    guest = _discarding(lab)
    for key in ("discard-granularity", "discard-alignment"):
        expect(guest.frontend.backend_node(key) is not None, f"feature-discard is 1, and {key} is missing")


@BACKEND.case("B-DISCARD-008", "a discard of no sectors has a legal status", "XSA-448, zero-length pieces")
def _nothing(lab: Lab) -> str:
    guest = _discarding(lab)
    (answer,) = guest.ask(_discard(guest, 0, 0))
    expect(answer.status in tuple(BlkifStatus), f"the status is {answer.status}")
    guest.works()
    return f"the status is {answer.status}"


@BACKEND.case("B-DISCARD-009", "a discard that is not aligned does no harm beside it", "io/blkif.h discard-granularity")
def _unaligned(lab: Lab) -> None:
    guest = _discarding(lab)
    data = os.urandom(8 * SECTOR_SIZE)
    guest.write(0, data)
    (answer,) = guest.ask(_discard(guest, 3, 2))
    expect(answer.status in tuple(BlkifStatus), f"the status is {answer.status}")
    found = guest.read(0, len(data))
    expect(found[: 3 * 512] == data[: 3 * 512] and found[5 * 512 :] == data[5 * 512 :], "sectors beside it changed")


@BACKEND.case("B-DISCARD-010", "a discard that is not offered has a legal status", "io/blkif.h feature-discard")
def _discard_not_offered(lab: Lab) -> str:
    guest = lab.connected()
    require(not guest.number("feature-discard"), "feature-discard is 1")
    request = _discard(guest, 0, 8)
    (answer,) = guest.ask(request)
    expect((answer.id, answer.operation) == (request.id, BlkifOp.DISCARD), f"answered with {answer}")
    expect(answer.status in tuple(BlkifStatus), f"the status is {answer.status}")
    return f"the status is {answer.status}"


@BACKEND.case("B-DISCARD-011", "discard-enable 0 withdraws the offer", "Linux xen_blkbk_discard; libxl discard-enable")
def _disabled(lab: Lab) -> None:
    _discarding(lab)
    guest = lab.guest().attach(discard_enable="0").connect()
    expect(not guest.number("feature-discard"), "discard-enable is 0, and feature-discard is 1")


@BACKEND.case("B-DISCARD-012", "what was discarded reads as zeros or as it was", _DISCARD)
def _afterwards(lab: Lab) -> None:
    guest = _discarding(lab)
    data = os.urandom(PAGE_SIZE)
    guest.write(0, data)
    guest.answered(_discard(guest, 0, PAGE_SECTORS))
    expect(guest.read(0, PAGE_SIZE) in (data, bytes(PAGE_SIZE)), "what was discarded reads as something else")
