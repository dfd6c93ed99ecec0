"""Cases: states of both ends, and what a backend publishes before and when it is Connected."""

from collections.abc import Callable

from xenblk.errors import XenstoreError
from xenblk.harness.conform.backend.lab import BACKEND, Guest, Lab
from xenblk.harness.conform.case import expect
from xenblk.harness.wire.deadline import wait_for
from xenblk.xenbus import XenbusState as S
from xenblk.xenstore.client import XenstoreTransaction

_DIAGRAM = "io/blkif.h, state diagrams"


@BACKEND.case("B-HAND-001", "a new device comes to InitWait by itself", _DIAGRAM)
def _init_wait(lab: Lab) -> None:
    lab.guest().attach().offered()


@BACKEND.case("B-HAND-002", "Initialised leads to Connected, and the disk works", _DIAGRAM)
def _initialised(lab: Lab) -> None:
    lab.connected().works()


@BACKEND.case(
    "B-HAND-003", "a frontend that goes straight to Connected is served", "edk2, mini-os and Unikraft frontends"
)
def _straight_to_connected(lab: Lab) -> None:
    guest = lab.guest().attach().offered().publish(state=S.CONNECTED)
    guest.frontend.await_backend(S.CONNECTED)
    guest.works()


def _already_there(state: S) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.guest()
        guest.ring = guest.frontend.ring()
        front = {key: value for key, value in guest.keys().items() if value is not None}
        guest.attach(front={**front, "state": str(int(state))})
        guest.served().works()

    return body


BACKEND.case("B-HAND-004", "a frontend in Initialised before the backend looked is served", "NetBSD xbd_xenbus.c")(
    _already_there(S.INITIALISED)
)
BACKEND.case("B-HAND-005", "a frontend in Connected before the backend looked is served", "edk2 XenPvBlkDxe")(
    _already_there(S.CONNECTED)
)


@BACKEND.case(
    "B-HAND-006", "a connected device stays so while the frontend writes Initialised again", "Linux frontend_changed"
)
def _initialised_again(lab: Lab) -> None:
    guest = lab.connected()
    guest.frontend.switch(S.INITIALISED)
    guest.works()
    guest.frontend.switch(S.CONNECTED)
    guest.works()
    guest.frontend.await_backend(S.CONNECTED)


@BACKEND.case("B-HAND-007", "sectors, sector-size and info are published as numbers", "io/blkif.h, backend nodes")
def _properties(lab: Lab) -> None:
    guest = lab.connected()
    for key in ("sectors", "sector-size", "info"):
        text = guest.frontend.backend_node(key)
        expect(text is not None and text.isdecimal(), f"the node {key} must be a decimal number, not {text!r}")
    expect(guest.sectors > 0, "a disk has at least one sector")
    size = guest.number("sector-size")
    expect(size >= 512 and size & (size - 1) == 0, f"sector-size is a power of two from 512 on, not {size}")


@BACKEND.case("B-HAND-008", "physical-sector-size is a multiple of sector-size", "io/blkif.h, physical-sector-size")
def _physical(lab: Lab) -> None:
    guest = lab.connected()
    logical, physical = guest.number("sector-size"), guest.number("physical-sector-size", guest.number("sector-size"))
    expect(physical >= logical and physical % logical == 0, f"physical-sector-size {physical}, sector-size {logical}")


@BACKEND.case("B-HAND-009", "info says whether the disk is read-only", "io/blkif.h VDISK_READONLY")
def _info(lab: Lab) -> None:
    for mode, bit in (("w", 0), ("r", 4)):
        info = lab.connected(mode=mode).number("info")
        expect(info & 4 == bit, f"info is {info} for mode {mode}: bit 4 stands for read-only")


def _state_of_no_frontend(state: S) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        guest = lab.guest().attach().offered()
        guest.frontend.switch(state)
        guest.frontend.await_backend(S.CLOSING, S.CLOSED)

    return body


for _number, _state in enumerate((S.INITWAIT, S.RECONFIGURING, S.RECONFIGURED), 10):
    BACKEND.case(
        f"B-HAND-{_number:03}",
        f"a frontend in {_state.label} is refused",
        "Linux frontend_changed, saw state at frontend",
    )(_state_of_no_frontend(_state))


@BACKEND.case(
    "B-HAND-013", "a state that is no number counts as Unknown: the backend lets go", "Linux xenbus_read_driver_state"
)
def _garbled(lab: Lab) -> None:
    guest = lab.connected()
    guest.need_sight()
    guest.frontend.switch("elephant")
    guest.nothing_mapped("its frontend's state is garbled")


@BACKEND.case("B-HAND-014", "the same state written 1000 times changes nothing", "Linux frontend_changed")
def _same_state(lab: Lab) -> None:
    guest = lab.connected()
    for _ in range(1000):
        guest.frontend.switch(S.CONNECTED)
    guest.works()
    guest.frontend.await_backend(S.CONNECTED)


@BACKEND.case("B-HAND-015", "only the state that a transaction leaves counts", "docs/misc/xenstore.txt, transactions")
def _in_one_transaction(lab: Lab) -> None:
    guest = lab.guest().attach().offered().publish(state=None)

    def jump(transaction: XenstoreTransaction) -> None:
        for state in (S.CLOSED, S.INITIALISED, S.CONNECTED):
            transaction.write(f"{guest.frontend.path}/state", str(int(state)))

    guest.frontend.store.transact(jump)
    guest.frontend.await_backend(S.CONNECTED)
    guest.works()


@BACKEND.case(
    "B-HAND-016", "what is offered is written as plain decimal numbers, flags as 0 or 1", "io/blkif.h, XenBus nodes"
)
def _decimal(lab: Lab) -> None:
    guest = lab.connected()
    for key in guest.frontend.store.directory(guest.frontend.backend_path):
        text = guest.frontend.backend_node(key) or ""
        if key.startswith(("feature-", "max-", "multi-queue-", "discard-")):
            expect(text.isascii() and text.isdecimal(), f"{key} must be a plain decimal number, not {text!r}")
        if key.startswith("feature-") and key != "feature-max-indirect-segments":
            expect(text in ("0", "1"), f"{key} must be 0 or 1, not {text!r}")


@BACKEND.case("B-HAND-017", "what a frontend is refused for is told below error/", "Linux xenbus_dev_fatal")
def _error_node(lab: Lab) -> str:
    guest = lab.guest().attach().offered()
    guest.frontend.switch(S.RECONFIGURED)
    guest.frontend.await_backend(S.CLOSING, S.CLOSED)
    path = guest.frontend.backend_path.replace("/backend/", "/error/backend/", 1) + "/error"
    text = wait_for(lambda: lab.xen.store.read(path, ""), f"a node {path}")
    number, _, sentence = text.partition(" ")
    expect(number.lstrip("-").isdecimal() and sentence, f"an error is a number and a text, not {text!r}")
    return text


def _published(key: str) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        expect(lab.connected().frontend.backend_node(key) is not None, f"the backend must write {key}, if only 0 or 1")

    return body


for _number, _key in enumerate(("multi-queue-max-queues", "feature-barrier", "feature-flush-cache"), 18):
    BACKEND.case(
        f"B-HAND-{_number:03}", f"{_key} is always there", "Unikraft drivers/xen/blkfront, which fails without"
    )(_published(_key))


@BACKEND.case("B-HAND-021", "the guest may not write the backend's nodes", "libxl_device.c, permissions")
def _permissions(lab: Lab) -> None:
    lab.need_own_guests()
    guest = lab.connected(mode="r")
    for key in ("state", "sectors", "mode"):
        try:
            guest.frontend.store.write(f"{guest.frontend.backend_path}/{key}", "w")
        except XenstoreError as e:
            expect(e.name == "EACCES", f"a write of {key} by the guest was answered with {e.name}")
        else:
            expect(False, f"the guest could write the backend's {key}")


def _connect_again(guest: Guest) -> None:
    guest.start_over()
    guest.publish().served().works()


@BACKEND.case("B-HAND-022", "a refused frontend may start over", "Linux frontend_changed, prepare for reconnect")
def _after_refusal(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    guest.frontend.switch(S.RECONFIGURED)
    guest.frontend.await_backend(S.CLOSING, S.CLOSED)
    guest.frontend.switch(S.CLOSED)
    guest.frontend.await_backend(S.CLOSED)
    _connect_again(guest)
