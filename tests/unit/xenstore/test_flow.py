"""Who has to wait, for what, until when, and what is dropped; others do not."""

from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.domain import Domain
from xenblk.xenstore.session import GUEST_EVENT_PATIENCE_S, UNREAD_BYTES_MAX
from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
PATIENCE_S = GUEST_EVENT_PATIENCE_S


def domain_of(core: Xenstored, domid: int) -> Domain:
    domain = core.domains.introduced(domid)
    assert domain is not None
    return domain


# Requests that are outstanding


def test_a_request_is_outstanding_until_its_events_were_taken(timed: Xenstored, client: Any) -> None:
    guest, one, other = client(1), client(2), client(0)
    one.watch("/all")
    other.watch("/all")
    guest.write("/all")
    account = domain_of(timed, 1)
    for who in (guest, one):
        assert account.nr_outstanding == 1
        who.take()
    output = other.session.output
    other.session.consume(len(output) - 1)
    assert account.nr_outstanding == 1
    other.session.consume(1)
    assert account.nr_outstanding == 0


def test_reading_own_answers_is_not_enough(timed: Xenstored, client: Any) -> None:
    """Each of 20 events that somebody does not read holds a request; when one goes, exactly one more is served."""
    guest, lazy = client(1), client(2)
    lazy.watch("/all")
    for i in range(25):
        guest.write(f"/all/{i}")
    assert [kind for kind, _ in guest.take()] == ["WRITE"] * 20
    before = guest.changes
    assert lazy.take(1) == [("WATCH_EVENT", b"/all/0\0t\0")]
    assert guest.changes > before, "whoever feeds it is told"
    guest.session.work()
    assert len(guest.take()) == 1
    assert lazy.take() == [("WATCH_EVENT", b"/all/%d\0t\0" % i) for i in range(1, 21)]
    guest.session.work()
    assert len(guest.take()) == 4


def test_who_causes_nothing_new_does_not_wait(timed: Xenstored, client: Any) -> None:
    """An event that says the same as one that waits is left out, so the second write holds nothing."""
    guest, lazy = client(1), client(2)
    lazy.watch("/all")
    guest.write("/all", times=100)
    assert len(guest.take()) == 100
    assert domain_of(timed, 1).nr_outstanding == 1
    assert len(lazy.take()) == 1


@pytest.mark.parametrize("how", ["close", "reset", "release"])
def test_nobody_waits_for_one_that_is_gone(timed: Xenstored, client: Any, how: str) -> None:
    guest, lazy = client(1), client(2)
    lazy.watch("/all")
    for i in range(25):
        guest.write(f"/all/{i}")
    assert len(guest.take()) == 20
    {"close": lazy.session.close, "reset": lazy.session.reset, "release": lambda: timed.release(Domid(2))}[how]()
    guest.session.work()
    assert len(guest.take()) == 5
    assert domain_of(timed, 1).nr_outstanding == 0


def test_regression_a_request_whose_events_are_gone_before_its_reply(timed: Xenstored, client: Any) -> None:
    """The second event of one request is too much for its reader: that one is disconnected, its first event with it."""
    guest, victim = client(1), client(0)
    guest.write("/all/a/b")
    guest.take()
    for path in ("/all/a/b", "/all/a"):
        victim.watch(path)
    while victim.session._queued_bytes <= UNREAD_BYTES_MAX - PAYLOAD_BYTES_MAX:
        victim.session.send_event("/x", b"%d" % victim.session._queued_bytes + b"t" * 4000)
    victim.session.send_event("/x", b"t" * (UNREAD_BYTES_MAX - victim.session._queued_bytes - 24))
    guest.send(XsMsgType.RM, b"/all/a\0")
    assert victim.session.closed
    assert domain_of(timed, 1).nr_outstanding == 1
    assert guest.take() == [("RM", OK)]
    assert domain_of(timed, 1).nr_outstanding == 0


# Events that a guest does not take


def test_an_event_is_given_up_after_20_s(timed: Xenstored, client: Any, pass_s: Any, clock: Any) -> None:
    guest, lazy = client(1), client(2)
    lazy.watch("/all")
    for i in range(30):
        guest.write(f"/all/{i}")
    assert len(guest.take()) == 20
    assert timed.due_s == clock.now_s + PATIENCE_S
    pass_s(PATIENCE_S / 2)
    timed.write("/all/late", b"")
    pass_s(PATIENCE_S / 2 - 0.001)
    assert guest.take() == []
    pass_s(0.001)
    assert len(guest.take()) == 10
    assert [payload for _, payload in lazy.take()] == [
        b"/all/late\0t\0",
        *(b"/all/%d\0t\0" % i for i in range(20, 30)),
    ]


def test_the_same_event_comes_again_after_it_was_given_up(timed: Xenstored, client: Any, pass_s: Any) -> None:
    lazy = client(2)
    lazy.watch("/all")
    timed.write("/all", b"")
    pass_s(PATIENCE_S)
    assert lazy.take() == []
    timed.write("/all", b"")
    assert lazy.take() == [("WATCH_EVENT", b"/all\0t\0")]


def test_what_is_not_given_up(timed: Xenstored, client: Any, pass_s: Any) -> None:
    """Replies, an event of which a part is taken, and domain 0's events."""
    guest, dom0 = client(2), client(0)
    guest.watch("/all")
    dom0.watch("/all")
    timed.write("/all/begun", b"")
    timed.write("/all/whole", b"")
    guest.send(XsMsgType.GET_DOMAIN_PATH, b"7\0")
    first = guest.session.output[:1]
    guest.session.consume(1)
    pass_s(10 * PATIENCE_S)
    assert [packet.payload for packet in PacketParser().feed(first + guest.session.output)] == [
        b"/all/begun\0t\0",
        b"/local/domain/7\0",
    ]
    assert [payload for _, payload in dom0.take()] == [b"/all/begun\0t\0", b"/all/whole\0t\0"]
