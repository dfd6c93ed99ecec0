"""Cases for frontends: what they publish, in which dialect, and what they make of the backend's features."""

from collections.abc import Mapping

from xenblk.abi import PAGE_SIZE
from xenblk.blkif import ABI_BY_PROTOCOL
from xenblk.harness.conform.case import expect, require
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, PERSISTENT, FrontendStage
from xenblk.harness.wire.deadline import wait_for

_HEADER = "io/blkif.h, frontend XenBus nodes"
_NOTES = "io/blkif.h, notes on multi-page rings"
_LINUX = "Linux xen-blkfront.c, talk_to_blkback"
_MULTI_PAGE = {"max-ring-page-order": "4", "max-ring-pages": "16"}


def _keys(stage: FrontendStage, features: Mapping[str, str] = FLUSH, **options: object) -> dict[str, str]:
    stage.set_up(stage.start(**options), features)
    return stage.backend.frontend_keys()


@FRONTEND.case("F-KEYS-001", "ring and event channel appear in one transaction", _LINUX)
def one_transaction(stage: FrontendStage) -> None:
    stage.start().connect()
    stage.backend.write(FLUSH)
    stage.backend.switch("2")
    wait_for(
        lambda: {"ring-ref", "ring-ref0", "event-channel"} & stage.backend.frontend_keys().keys() != set(),
        "a ring in the frontend's nodes",
    )
    # Whatever moment this is, all of it is there.
    keys = stage.backend.frontend_keys()
    for names in (("ring-ref", "ring-ref0"), ("event-channel",), ("protocol",)):
        expect(any(name in keys for name in names), f"there was a moment without `{names[0]}` among the others")


@FRONTEND.case("F-KEYS-002", "`protocol` names the layout of requests", "io/blkif.h, protocol")
def protocol(stage: FrontendStage) -> None:
    keys = _keys(stage)
    expect("protocol" in keys, "`protocol` is missing, which means x86_32 to some backends and native to others")
    known = ", ".join(sorted(ABI_BY_PROTOCOL))
    expect(keys["protocol"] in ABI_BY_PROTOCOL, f"`protocol` is {keys['protocol']!r}, none of {known}")


@FRONTEND.case("F-KEYS-003", "numbers are plain decimals", _HEADER)
def decimals(stage: FrontendStage) -> None:
    keys = _keys(stage)
    for name in ("ring-ref", "event-channel"):
        expect(keys.get(name, "").isdecimal(), f"`{name}` is {keys.get(name)!r}")


@FRONTEND.case("F-KEYS-004", "a ring of one page has `ring-ref` and no order", _NOTES)
def one_page(stage: FrontendStage) -> None:
    keys = _keys(stage, {**FLUSH, **_MULTI_PAGE})
    if keys.get("ring-page-order", keys.get("num-ring-pages")) is not None:
        require("ring-ref1" not in keys, "this frontend uses more than one page unasked")
        expect("ring-page-order" not in keys, "order 0 that is spelled out means other names to some backends")
    expect("ring-ref" in keys, "`ring-ref` is missing")


@FRONTEND.case("F-KEYS-005", "without the backend's leave the ring has one page", _NOTES)
def no_leave(stage: FrontendStage) -> None:
    keys = _keys(stage, FLUSH, ring_page_order=2)
    many = {"ring-page-order", "num-ring-pages", "ring-ref1"} & keys.keys()
    expect(not many, f"it wrote {', '.join(sorted(many))} to a backend without max-ring-page-order")
    expect("ring-ref" in keys, "`ring-ref` is missing")


def _multi_page(order: int) -> None:
    @FRONTEND.case(f"F-KEYS-01{order}", f"a ring of order {order} is published and works", _NOTES)
    def multi_page(stage: FrontendStage) -> None:
        frontend = stage.connect({**FLUSH, **_MULTI_PAGE}, ring_page_order=order)
        keys = stage.backend.frontend_keys()
        expect(keys.get("ring-page-order") == str(order), f"`ring-page-order` is {keys.get('ring-page-order')}")
        expect("ring-ref" not in keys, "`ring-ref` stands beside the pages of a larger ring")
        expect(stage.ring.nr_pages == 1 << order, "the ring has another size")
        stage.expect_working(frontend)


for _order in (1, 2, 3, 4):
    _multi_page(_order)


@FRONTEND.case("F-KEYS-020", "the ring is no larger than the backend's maximum", _NOTES)
def limited_order(stage: FrontendStage) -> None:
    keys = _keys(stage, {**FLUSH, "max-ring-page-order": "1", "max-ring-pages": "2"}, ring_page_order=4)
    expect(int(keys.get("ring-page-order", "0")) <= 1, f"`ring-page-order` is {keys.get('ring-page-order')}, not 1")
    expect("ring-ref2" not in keys, "there are more than two pages")


@FRONTEND.case("F-KEYS-021", "a backend of the other dialect is understood or taken as one page", _NOTES)
def other_dialect(stage: FrontendStage) -> str:
    frontend = stage.connect({**FLUSH, "max-ring-pages": "4"}, ring_page_order=2)
    keys = stage.backend.frontend_keys()
    if stage.ring.nr_pages > 1:
        expect("num-ring-pages" in keys, "a backend that knows `max-ring-pages` alone reads `num-ring-pages`")
    stage.expect_working(frontend)
    return f"a ring of {stage.ring.nr_pages} pages"


@FRONTEND.case("F-KEYS-030", "without the backend's leave there is one queue", "io/blkif.h, multi-queue")
def one_queue(stage: FrontendStage) -> None:
    keys = _keys(stage, FLUSH, nr_queues=2)
    expect("ring-ref" in keys, "the keys of a single queue are not at the top level")
    expect(keys.get("multi-queue-num-queues", "1") == "1", "it wrote multi-queue-num-queues unasked")


@FRONTEND.case("F-KEYS-031", "keys of several queues stand below `queue-N` alone", "io/blkif.h, multi-queue")
def two_queues(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "multi-queue-max-queues": "4"}, nr_queues=2)
    keys = stage.backend.frontend_keys()
    expect(keys.get("multi-queue-num-queues") == "2", f"multi-queue-num-queues is {keys.get('multi-queue-num-queues')}")
    expect(not {"ring-ref", "event-channel"} & keys.keys(), "keys of a queue stand at the top level")
    expect(len(stage.backend.rings) == 2, "there are not two rings")
    stage.expect_working(frontend)


@FRONTEND.case("F-KEYS-032", "there are no more queues than the backend's maximum", "io/blkif.h, multi-queue")
def limited_queues(stage: FrontendStage) -> None:
    frontend = stage.connect({**FLUSH, "multi-queue-max-queues": "2"}, nr_queues=4)
    expect(len(stage.backend.rings) <= 2, f"there are {len(stage.backend.rings)} queues")
    stage.expect_working(frontend)


@FRONTEND.case("F-KEYS-033", "several queues with rings of several pages", "io/blkif.h, multi-queue")
def large_queues(stage: FrontendStage) -> None:
    features = {**FLUSH, **_MULTI_PAGE, "multi-queue-max-queues": "4"}
    frontend = stage.connect(features, nr_queues=2, ring_page_order=1)
    expect(all(ring.nr_pages == 2 for ring in stage.backend.rings), "a ring has another size")
    stage.expect_working(frontend)


@FRONTEND.case("F-KEYS-040", "`feature-persistent` is 0 or 1", "io/blkif.h, feature-persistent")
def persistent(stage: FrontendStage) -> None:
    value = _keys(stage, {**FLUSH, **PERSISTENT}).get("feature-persistent", "0")
    expect(value in ("0", "1"), f"`feature-persistent` is {value!r}, which some backends refuse")


@FRONTEND.case("F-KEYS-041", "a frontend that is told not to keep grants says so", "io/blkif.h, feature-persistent")
def not_persistent(stage: FrontendStage) -> None:
    value = _keys(stage, {**FLUSH, **PERSISTENT}, feature_persistent=False).get("feature-persistent", "0")
    expect(value == "0", f"`feature-persistent` is {value!r}")


@FRONTEND.case("F-KEYS-042", "`feature-large-sector-size` is deprecated, and not written", "xen commit 221f2748e8")
def large_sectors(stage: FrontendStage) -> None:
    expect(_keys(stage).get("feature-large-sector-size", "0") == "0", "it is written, and claims units of its own")


@FRONTEND.case("F-KEYS-050", "a fresh ring is its counters, 0, 1, 0, 1, and zeros", "io/ring.h, SHARED_RING_INIT")
def fresh_ring(stage: FrontendStage) -> None:
    stage.set_up(stage.start())
    ring = stage.backend.attach_rings()[0]
    req_prod, req_event, rsp_prod, rsp_event = ring.header()
    expect((req_prod, rsp_prod) == (0, 0), f"req_prod is {req_prod} and rsp_prod {rsp_prod}")
    expect((req_event, rsp_event) == (1, 1), f"req_event is {req_event} and rsp_event {rsp_event}")
    expect(not any(ring.content()[16:]), "the ring's page holds something")


@FRONTEND.case("F-KEYS-051", "the ring is granted for writing", "io/blkif.h, ring-ref")
def writable_ring(stage: FrontendStage) -> None:
    stage.set_up(stage.start())
    stage.backend.attach_rings()
    stage.ring.req_event = 1
    expect(stage.ring.nr_pages * PAGE_SIZE == len(stage.ring.content()), "not all of it is mapped")


_GARBAGE = {
    "max-ring-page-order": "elephant",
    "max-ring-pages": "-1",
    "multi-queue-max-queues": "many",
    "feature-persistent": "maybe",
    "feature-max-indirect-segments": "-3",
    "feature-flush-cache": "yes",
    "feature-barrier": "no",
    "feature-discard": "elephant",
}


def _garbage(number: int, name: str, value: str) -> None:
    @FRONTEND.case(f"F-KEYS-{number:03}", f"garbage in `{name}` means its default", "xenbus_read_unsigned")
    def garbage(stage: FrontendStage) -> None:
        stage.backend.write({name: value})
        frontend = stage.start()
        connecting = frontend.connect()
        stage.go_on(connecting, {})
        expect(stage.ring.nr_pages == 1, "the ring has more than one page")
        expect(len(stage.backend.rings) == 1, "there is more than one ring")
        stage.expect_working(frontend)


for _at, (_name, _value) in enumerate(_GARBAGE.items(), 60):
    _garbage(_at, _name, _value)
