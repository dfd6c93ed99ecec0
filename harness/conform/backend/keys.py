"""Cases: the keys that a frontend publishes, good and bad."""

from collections.abc import Callable, Mapping

from xenblk.abi import Domid
from xenblk.blkif import X86_32, X86_64
from xenblk.harness.conform.backend.lab import BACKEND, Guest, Lab
from xenblk.harness.conform.case import expect
from xenblk.vdev import parse_vdev
from xenblk.xenbus import XenbusState as S

_CONNECT_RING = "Linux xen-blkback/xenbus.c connect_ring, read_per_ring_refs"


def _refused(keys: Mapping[str, str | None]) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        lab.guest().attach().offered().publish(keys=keys).refused()

    return body


_BAD: tuple[tuple[str, str, dict[str, str | None]], ...] = (
    ("001", "without ring-ref", {"ring-ref": None}),
    ("002", "without event-channel", {"event-channel": None}),
    ("003", "with a ring-ref that is no number", {"ring-ref": "elephant"}),
    ("004", "with a ring-ref that grants nothing", {"ring-ref": "31000"}),
    ("005", "with a ring-ref outside the grant table", {"ring-ref": "4294967295"}),
    ("006", "with an event-channel that is no number", {"event-channel": "elephant"}),
    ("007", "with an event-channel that nobody allocated", {"event-channel": "4000"}),
    ("008", "with a protocol that nobody knows", {"protocol": "vax-abi"}),
    ("009", "with 2^20 ring pages", {"ring-page-order": "20"}),
    ("010", "with 0 queues", {"multi-queue-num-queues": "0"}),
    ("011", "with more queues than offered", {"multi-queue-num-queues": "10000"}),
)
for _number, _what, _keys in _BAD:
    BACKEND.case(f"B-KEYS-{_number}", f"a frontend {_what} is refused", _CONNECT_RING)(_refused(_keys))


def _ring_page(guest: Guest, readonly: bool = False, domid: Domid | None = None) -> None:
    page = guest.frontend.page(readonly=readonly, domid=domid)
    guest.publish(keys={"ring-ref": str(page.ref)}).refused()


@BACKEND.case(
    "B-KEYS-012", "a ring that is granted for reading only is refused", "io/blkif.h ring-ref; xen grant_table.c"
)
def _readonly_ring(lab: Lab) -> None:
    _ring_page(lab.guest().attach().offered(), readonly=True)


@BACKEND.case(
    "B-KEYS-013", "a ring that is granted to another domain is refused", "xen grant_table.c, map check of domid"
)
def _foreign_ring(lab: Lab) -> None:
    _ring_page(lab.guest().attach().offered(), domid=Domid(77))


@BACKEND.case("B-KEYS-014", "a port that is bound already is refused, and its owner served on", _CONNECT_RING)
def _bound_port(lab: Lab) -> None:
    first = lab.connected()
    second = lab.guest(handle=parse_vdev("xvdb"), beside=first).attach().offered()
    second.publish(keys={"event-channel": str(first.ring.channel.port)}).refused()
    first.works()


@BACKEND.case("B-KEYS-015", "a ring of two pages without its second reference is refused", _CONNECT_RING)
def _half_a_ring(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.require("max-ring-page-order", 1)
    guest.publish(order=1, keys={"ring-ref1": None}).refused()


@BACKEND.case("B-KEYS-016", "ring-page-order 0 with ring-ref0 is one page", "Linux xenbus.c, QEMU xen-block.c")
def _order_zero_numbered(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.ring = guest.frontend.ring()
    ref = str(guest.ring.refs[0])
    guest.frontend.write({**guest.keys(), "ring-ref": None, "ring-ref0": ref, "ring-page-order": "0"})
    guest.frontend.switch(S.INITIALISED)
    guest.served().works()


@BACKEND.case("B-KEYS-017", "ring-page-order 0 with ring-ref is one page", "tapback frontend.c, FreeBSD blkback.c")
def _order_zero_plain(lab: Lab) -> None:
    lab.guest().attach().connect(keys={"ring-page-order": "0"}).works()


@BACKEND.case(
    "B-KEYS-018", "num-ring-pages, the old dialect, is understood where max-ring-pages is offered", "io/blkif.h note 3"
)
def _old_dialect(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.require("max-ring-pages", 2)
    guest.publish(order=1, keys={"ring-page-order": None, "num-ring-pages": "2"}).served().works()


@BACKEND.case("B-KEYS-019", "both dialects at once are one ring", "io/blkif.h note 3; FreeBSD blkfront.c writes both")
def _both_dialects(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.require("max-ring-page-order", 1)
    guest.publish(order=1, keys={"num-ring-pages": "2"}).served().works()


@BACKEND.case("B-KEYS-020", "one queue may be said in so many words", "io/blkif.h multi-queue-num-queues")
def _one_queue(lab: Lab) -> None:
    lab.guest().attach().connect(keys={"multi-queue-num-queues": "1"}).works()


@BACKEND.case("B-KEYS-021", "a feature-persistent that is no number means no", "Linux xenbus_read_unsigned")
def _persistent_garbage(lab: Lab) -> None:
    guest = lab.guest().attach().connect(keys={"feature-persistent": "elephant"})
    guest.works()
    guest.nothing_but_the_ring_mapped("persistence was not negotiated")


@BACKEND.case("B-KEYS-022", "keys that the backend does not know do no harm", "WIN xenvbd, frontend nodes")
def _unknown_keys(lab: Lab) -> None:
    extra = {"target-id": "0", "feature-surprise-remove": "1", "feature-online-resize": "1", "elephant": "grey"}
    lab.guest().attach().connect(keys=extra).works()


@BACKEND.case("B-KEYS-023", "a reference given twice for two ring pages is refused or served", "io/blkif.h ring-ref%u")
def _twice(lab: Lab) -> str:
    neighbour = lab.connected()
    guest = lab.guest().attach().offered()
    guest.require("max-ring-page-order", 1)
    guest.ring = guest.frontend.ring(X86_64, 1)
    guest.frontend.write({**guest.keys(), "ring-ref1": str(guest.ring.refs[0])})
    guest.frontend.switch(S.INITIALISED)
    state = guest.frontend.await_backend(S.CONNECTED, S.CLOSING, S.CLOSED)
    neighbour.works()
    return f"the backend went to {state.label}"


@BACKEND.case("B-KEYS-024", "a ring-page-order that is no number is refused or counts as absent", "Linux xenbus_scanf")
def _order_garbage(lab: Lab) -> str:
    guest = lab.guest().attach().offered().publish(keys={"ring-page-order": "elephant"})
    state = guest.frontend.await_backend(S.CONNECTED, S.CLOSING, S.CLOSED)
    if state is S.CONNECTED:
        guest.works()
    return f"the backend went to {state.label}"


@BACKEND.case("B-KEYS-025", "after a refusal the right keys are taken", "Linux frontend_changed, prepare for reconnect")
def _mended(lab: Lab) -> None:
    guest = lab.guest().attach().offered().publish(keys={"ring-ref": "31000"})
    guest.refused()
    guest.frontend.switch(S.CLOSED)
    guest.frontend.await_backend(S.CLOSED)
    guest.start_over()
    guest.publish().served().works()


@BACKEND.case("B-KEYS-026", "a ring order one above the maximum is refused", _CONNECT_RING)
def _above_maximum(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    order = guest.number("max-ring-page-order") + 1
    refs = {f"ring-ref{at}": str(guest.frontend.page().ref) for at in range(1 << order)}
    guest.publish(keys={"ring-page-order": str(order), **refs}).refused()


@BACKEND.case(
    "B-KEYS-027", "a missing protocol means x86_32-abi", "Linux connect_ring, BLKIF_PROTOCOL default; tapback"
)
def _no_protocol(lab: Lab) -> None:
    lab.guest().attach().connect(X86_32, keys={"protocol": None}).works()


@BACKEND.case(
    "B-KEYS-028",
    "another handle than the device's in requests does no harm",
    "Linux blkback.c, handle is not looked at",
)
def _handle(lab: Lab) -> None:
    guest = lab.connected()
    guest.request_handle = 0xBEEF
    guest.works()
    expect(guest.frontend.backend_state() is S.CONNECTED, "the backend left Connected")
