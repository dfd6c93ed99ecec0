"""What is kept for a client that does not read is bounded, and it goes on where it was when it reads again."""

from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.session import OUTPUT_BYTES_MAX
from xenblk.xenstore.store import Perm
from xenblk.xenstore.wire import HEADER_BYTES, PAYLOAD_BYTES_MAX, XsMsgType
from xenblk.xenstore.xenstored import Xenstored


def kept_bytes(who: Any) -> int:
    return len(b"".join(message[0] for message in who.session._queue))


def memory_bytes(core: Xenstored) -> int:
    domain = core.domains.introduced(1)
    assert domain is not None
    return domain.memory_bytes


@pytest.mark.parametrize("domid", [0, 1])
def test_xsa_326_answers_that_are_not_read(timed: Xenstored, client: Any, domid: int) -> None:
    """Requests are kept unserved; who feeds the session is told to read no more of them."""
    lazy, other = client(domid), client(2)
    timed.write("/all", b"v" * 4000)
    timed.quotas.outstanding = 1000
    for _ in range(100):
        lazy.send(XsMsgType.READ, b"/all\0")
    assert OUTPUT_BYTES_MAX < kept_bytes(lazy) <= OUTPUT_BYTES_MAX + HEADER_BYTES + PAYLOAD_BYTES_MAX
    assert (lazy.session.waiting, lazy.session.wanted_bytes) == (True, 0)
    other.send(XsMsgType.READ, b"/all\0")
    assert len(other.take()) == 1
    assert len(lazy.take()) == 100
    assert (lazy.session.waiting, lazy.session.wanted_bytes) == (False, HEADER_BYTES)


def test_xsa_326_events_that_a_guest_does_not_read(timed: Xenstored, client: Any, pass_s: Any) -> None:
    """It gets those that came before its memory was used up; once it has read them it gets new ones."""
    lazy, other = client(1), client(2)
    for who in (lazy, other):
        who.watch("/all")
    timed.quotas.memory = 10_000
    for i in range(500):
        timed.write(f"/all/{i}", b"")
        other.take()
    assert 9_900 < memory_bytes(timed) < 10_000
    assert kept_bytes(lazy) < 10_000
    told = [payload for _, payload in lazy.take()]
    assert told == [b"/all/%d\0t\0" % i for i in range(len(told))]
    timed.write("/all/new", b"")
    assert lazy.take() == other.take() == [("WATCH_EVENT", b"/all/new\0t\0")]


def test_domains_that_come_and_go_while_a_guest_does_not_read(timed: Xenstored, client: Any) -> None:
    """Of these events none is left out as being the same; they are bounded nevertheless."""
    timed.tree.set_special_perms(timed.domains.dom0, "@introduceDomain", (Perm("r", Domid(0), 1),))
    lazy = client(1)
    lazy.watch("@introduceDomain")
    timed.quotas.memory = 10_000
    for domid in range(10, 1000):
        timed.introduce(Domid(domid))
    assert 9_900 < memory_bytes(timed) < 10_000


def test_a_guest_whose_memory_is_used_up_waits_until_it_is_not(
    timed: Xenstored, client: Any, pass_s: Any, clock: Any
) -> None:
    """It is served again within a second after others freed some."""
    guest = client(1)
    guest.watch("/all")
    timed.quotas.memory = memory_bytes(timed) + 200
    for i in range(100):
        timed.write(f"/all/{i}", b"")
    timed.write("/gift", b"v" * 150)
    timed.set_perms("/gift", ["n1"])
    guest.send(XsMsgType.GET_DOMAIN_PATH, b"7\0")
    held = guest.take(2)
    assert {kind for kind, _ in held} == {"WATCH_EVENT"}
    assert guest.session.waiting
    pass_s(0.5)
    timed.rm("/gift")
    assert timed.due_s is not None
    assert timed.due_s - clock.now_s <= 1
    pass_s(timed.due_s - clock.now_s)
    assert guest.take()[-1] == ("GET_DOMAIN_PATH", b"/local/domain/7\0")
