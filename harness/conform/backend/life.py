"""Cases: closing, starting over, being removed, and changing size."""

import os
from collections.abc import Callable
from typing import Final

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE
from xenblk.blkif import X86_32, X86_64, BlkifOp
from xenblk.errors import XenblkError
from xenblk.harness.conform.backend.lab import BACKEND, Guest, Lab
from xenblk.harness.conform.case import NotOfferedError, expect
from xenblk.harness.wire.deadline import DeadlineError, patience_s, wait_for
from xenblk.xenbus import XenbusState as S
from xenblk.xenstore.client import XenstoreTransaction

_CHANGED = "Linux xen-blkback/xenbus.c frontend_changed"
_NOTICES_S: Final = 5.0
"""A backend that follows its disk's size has looked by then, even on a busy machine: no node says that it does."""


@BACKEND.case("B-LIFE-001", "Closing is answered with Closing, Closed with Closed, and nothing stays mapped", _CHANGED)
def _close(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    guest.works()
    guest.disconnect()


@BACKEND.case("B-LIFE-002", "a frontend that goes to Closed at once is let go", _CHANGED)
def _close_at_once(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    guest.works()
    guest.frontend.switch(S.CLOSED)
    guest.frontend.await_backend(S.CLOSED)
    guest.nothing_mapped("Closed")


@BACKEND.case(
    "B-LIFE-003",
    "after Closed the frontend may start over without the toolstack",
    "Linux xenbus_reset_frontend; edk2; mini-os",
)
def _start_over(lab: Lab) -> None:
    guest = lab.connected()
    data = os.urandom(PAGE_SIZE)
    guest.write(0, data)
    guest.disconnect()
    guest.start_over()
    guest.publish().served().holds(0, data)


@BACKEND.case("B-LIFE-004", "twenty connections of one device leave nothing mapped", "CVE-2010-3699; Linux f929d42c")
def _many(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    for _ in range(20):
        guest.publish(persistent=True).served().works()
        guest.disconnect()
        guest.start_over()


@BACKEND.case(
    "B-LIFE-005",
    "a new connection may have another layout, another ring and other features",
    "firmware hands over to an OS",
)
def _hand_over(lab: Lab) -> None:
    guest = lab.guest().attach().offered()
    orders = (0, min(1, guest.number("max-ring-page-order")))
    data = os.urandom(PAGE_SIZE)
    for abi, order, persistent in ((X86_32, orders[0], False), (X86_64, orders[1], True), (X86_32, orders[1], None)):
        guest.publish(abi, order, persistent=persistent).served()
        guest.write(0, data)
        guest.holds(0, data)
        guest.disconnect()
        guest.start_over()


@BACKEND.case(
    "B-LIFE-006", "a device that is taken by force is let go without the guest", "libxl_device.c, forced removal"
)
def _forced(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    guest.works()
    back = guest.frontend.backend_path

    def take(transaction: XenstoreTransaction) -> None:
        transaction.rm(guest.frontend.path)
        transaction.write(f"{back}/online", "0")
        transaction.write(f"{back}/state", "5")

    # At once: a backend that is fast has removed the device before its nodes would be written.
    lab.xen.store.transact(take)
    guest.nothing_mapped("the frontend's directory is gone")
    wait_for(lambda: lab.xen.store.read(f"{back}/state", "6") == "6", "the backend to be Closed or gone")


@BACKEND.case("B-LIFE-007", "a frontend whose directory vanishes is let go", _CHANGED + ", Unknown")
def _vanished(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    guest.need_sight()
    guest.works()
    lab.xen.store.rm(guest.frontend.path)
    guest.nothing_mapped("the frontend's directory is gone")


@BACKEND.case(
    "B-LIFE-008", "a device whose own directory is removed does not come back to life", "Linux xenbus_switch_state"
)
def _removed(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    guest.works()
    back = guest.frontend.backend_path
    lab.xen.store.rm(back)
    guest.nothing_mapped("the backend's directory is gone")
    lab.connected().works()
    expect(not lab.xen.store.exists(f"{back}/state"), "the backend wrote the state of a device that was removed")


@BACKEND.case(
    "B-LIFE-009", "with online 0 a closed device is not offered again", "io/xenbus.h; Linux frontend_changed, online"
)
def _offline(lab: Lab) -> None:
    guest = lab.connected()
    back = guest.frontend.backend_path
    lab.xen.store.write(f"{back}/online", "0")
    guest.frontend.switch(S.CLOSING)
    guest.frontend.await_backend(S.CLOSING, S.CLOSED, S.UNKNOWN)
    guest.frontend.switch(S.CLOSED)
    wait_for(lambda: lab.xen.store.read(f"{back}/state", "6") == "6", "the backend to be Closed or gone")
    guest.nothing_mapped("Closed")


@BACKEND.case(
    "B-LIFE-010",
    "a new size of the disk is published, and the frontend's watch fires",
    "io/blkif.h sectors; Linux xen_vbd_resize",
)
def _resize(lab: Lab) -> None:
    image = lab.image(1 << 20)
    guest = lab.guest(str(image)).attach().connect()
    expect(guest.sectors == 2048, f"a disk of 1 MiB has 2048 sectors, not {guest.sectors}")
    lab.resize(image, 2 << 20)
    state = f"{guest.frontend.backend_path}/state"
    guest.frontend.store.watch(state, "state")
    guest.works()
    try:
        wait_for(lambda: guest.sectors == 4096, "sectors to be 4096", min(_NOTICES_S, patience_s()))
    except DeadlineError as e:
        raise NotOfferedError(f"the backend does not follow its disk's size: {e}") from None
    data = os.urandom(SECTOR_SIZE)
    guest.write(4095, data)
    guest.holds(4095, data)
    events = [guest.frontend.store.next_event(1.0) for _ in range(2)]  # the first comes with the watch
    expect(all(events), "sectors changed, and the state was not written again")


@BACKEND.case(
    "B-LIFE-011", "data stays when the device is taken away and given again", "blkif, the disk is not the device"
)
def _again(lab: Lab) -> None:
    image = str(lab.image(1 << 20))
    data = os.urandom(PAGE_SIZE)
    first = lab.guest(image).attach().connect()
    first.write(0, data)
    first.disconnect()
    second = lab.guest(image).attach().connect()
    second.holds(0, data)


@BACKEND.case(
    "B-LIFE-012", "closing with requests in flight leaves nothing mapped", "XSA-350; Linux xen_blkif_disconnect"
)
def _in_flight(lab: Lab) -> None:
    guest = lab.connected(persistent=True)
    pages = [guest.frontend.page() for _ in range(guest.ring.nr_ents)]
    guest.put(*(guest.request(BlkifOp.WRITE, page.segment(), sector=at) for at, page in enumerate(pages)))
    guest.ring.publish()
    guest.frontend.switch(S.CLOSED)
    guest.frontend.await_backend(S.CLOSED)
    guest.nothing_mapped("Closed")


def _crash_at(step: Callable[[Guest], None]) -> Callable[[Lab], None]:
    def body(lab: Lab) -> None:
        lab.need_own_guests()
        neighbour = lab.connected()
        guest = lab.guest().attach()
        step(guest)
        domid = guest.platform.domid
        guest.platform.close()
        wait_for(lambda: lab.xen.pins(domid) == 0, "the backend to unmap the pages of a domain that died")
        neighbour.works()

    return body


def _offered(guest: Guest) -> None:
    guest.offered()


def _published(guest: Guest) -> None:
    guest.offered().publish()


def _connected(guest: Guest) -> None:
    guest.connect(persistent=True).works()


def _busy(guest: Guest) -> None:
    guest.connect(persistent=True)
    pages = [guest.frontend.page() for _ in range(guest.ring.nr_ents)]
    guest.put(*(guest.request(BlkifOp.WRITE, page.segment(), sector=at) for at, page in enumerate(pages)))
    guest.ring.publish()


def _closing(guest: Guest) -> None:
    guest.connect(persistent=True).works()
    guest.frontend.switch(S.CLOSING)


for _number, (_when, _step) in enumerate(
    (
        ("was offered its disk", _offered),
        ("published its ring", _published),
        ("was connected", _connected),
        ("had a full ring in flight", _busy),
        ("wrote Closing", _closing),
    ),
    13,
):
    BACKEND.case(
        f"B-LIFE-{_number:03}", f"a guest that dies after it {_when} leaves nothing mapped", "blkif, domain death"
    )(_crash_at(_step))


@BACKEND.case(
    "B-LIFE-018",
    "a backend that cannot open the disk says so and serves the others",
    "libxl, hotplug-error; Linux backend_changed",
)
def _no_disk(lab: Lab) -> None:
    guest = lab.guest("/nonexistent/disk").attach()
    path = f"{guest.frontend.backend_path}"
    wait_for(
        lambda: (
            lab.xen.store.read(f"{path}/hotplug-status", "") == "error"
            or lab.xen.store.read(f"{path}/state", "") in "56"
        ),
        "hotplug-status error, or Closing",
    )
    lab.connected().works()


def _no_mode(lab: Lab) -> None:
    guest = lab.guest().attach(None)
    try:
        state = guest.frontend.await_backend(S.CLOSING, S.CLOSED, timeout_s=0.3)
        expect(state is not S.CONNECTED, "a device without mode is served")
    except XenblkError:
        expect(guest.frontend.backend_state() is S.INITIALISING, "a device without mode was offered")


BACKEND.case("B-LIFE-019", "a device without a mode is not offered", "Linux backend_changed, mode")(_no_mode)
