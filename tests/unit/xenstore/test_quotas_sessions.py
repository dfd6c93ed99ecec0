"""What a guest may have open: watches, transactions and what these touch, requests, and memory for all of it."""

from typing import Any

import pytest

from xenblk.xenstore.domain import Domain
from xenblk.xenstore.wire import Packet, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
HOME = "/local/domain/5"


@pytest.fixture
def five(core: Xenstored) -> Domain:
    domain = core.domains.introduced(5)
    assert domain is not None
    return domain


def test_watches(core: Xenstored, five: Domain, guest: Any, talk: Any, refused: Any) -> None:
    other = talk(5)
    for i in range(129):
        assert (guest, other)[i % 2].watch("/a", f"{i}") == OK
    assert refused(lambda: guest.watch("/a", "more")) == refused(lambda: other.watch("@x", "more")) == "E2BIG"
    assert refused(lambda: guest.watch("/a", "0")) == "EEXIST"
    assert talk(7).watch("/a", "other") == OK
    assert guest.unwatch("/a", "0") == OK
    assert other.watch("/a", "more") == OK
    assert refused(lambda: other.watch("/a", "most")) == "E2BIG"
    assert guest.ask(XsMsgType.RESET_WATCHES, b"\0") == OK
    assert five.nr_watches == 65
    other.session.close()
    assert five.nr_watches == 0
    assert guest.watch("/a", "0") == OK


def test_transactions(core: Xenstored, five: Domain, guest: Any, dom0: Any, talk: Any, refused: Any) -> None:
    other = talk(5)
    started = [(guest, other)[i % 2].start() for i in range(11)]
    for who in (guest, other):
        assert refused(lambda who=who: who.ask(XsMsgType.TRANSACTION_START, b"\0")) == "ENOSPC"
    assert [dom0.start() for _ in range(20)][-1] == 20
    assert talk(7).start() == 1
    assert guest.end(started[0], b"F\0") == OK
    other.start()
    assert guest.ask(XsMsgType.TRANSACTION_START, b"\0") == "ENOSPC"
    assert guest.end(started[2]) == OK
    assert guest.ask(XsMsgType.RESET_WATCHES, b"\0") == OK
    other.session.close()
    assert five.nr_transactions == 0
    assert core.nr_transactions == 21


def test_a_commit_that_fails_ends_the_transaction(
    core: Xenstored, five: Domain, guest: Any, dom0: Any, limit: Any
) -> None:
    limit("transactions", 1)
    guest.write("a")
    for _ in range(5):
        tx = guest.start()
        guest.read("a", tx)
        dom0.write(f"{HOME}/a", b"new")
        assert guest.end(tx) == "EAGAIN"
    assert five.nr_transactions == core.nr_transactions == 0


def test_nodes_that_a_transaction_touches(guest: Any, dom0: Any, limit: Any, refused: Any) -> None:
    limit("transaction-nodes", 4)
    for name in "abcde":
        guest.write(name)
    for who, answers in ((guest, [b""] * 4 + ["ENOSPC"]), (dom0, [b""] * 5)):
        tx = who.start()
        assert [who.read(f"{HOME}/{name}", tx) for name in "abcde"] == answers
        assert who.write(f"{HOME}/a", who.session.domain.domid.to_bytes(), tx) == OK
        assert who.end(tx) == ("ENOMEM" if who is guest else OK)
    assert guest.read("a") == b"\0", "of what failed nothing is kept"


@pytest.mark.parametrize("quota", [1, 20])
def test_requests_outstanding(core: Xenstored, five: Domain, guest: Any, dom0: Any, limit: Any, quota: int) -> None:
    """Those above it are not lost: they wait until a reply was taken, from one or from another session."""
    limit("outstanding", quota)
    request = Packet(XsMsgType.READ, 1, 0, b"/\0").encode()
    guest.session.feed(request * (quota + 3))
    assert (five.nr_outstanding, guest.session.waiting) == (quota, True)
    reply_bytes = len(guest.session.output) // quota
    guest.session.consume(reply_bytes - 1)
    assert len(guest.session.output) == reply_bytes * quota - reply_bytes + 1
    guest.session.consume(1)
    assert len(guest.session.output) == reply_bytes * quota
    assert len(guest.take()) == quota + 2
    assert (five.nr_outstanding, guest.session.waiting) == (0, False)
    dom0.session.feed(request * 100)
    assert len(dom0.take()) == 100


# Memory: nodes, watches, what transactions have seen, and what waits to be read


def test_memory_of_nodes(five: Domain, guest: Any, dom0: Any, limit: Any, refused: Any) -> None:
    """A write must leave the domain below its quota; at the edge nothing is refused but growth, and EIO says so."""
    guest.write("a", b"v" * 100)
    room = 50
    limit("memory", five.memory_bytes + room)
    assert refused(lambda: guest.write("a", b"v" * (100 + room))) == "EIO"
    assert refused(lambda: guest.write("b/c")) == "EIO"
    assert guest.write("a", b"v" * (100 + room - 1)) == OK
    assert refused(lambda: guest.watch("/a", "t")) == "ENOMEM"
    assert guest.write("a", b"") == OK
    assert (guest.watch("/a", "t"), guest.write("a", b"v" * 50)) == (OK, OK)
    assert dom0.write(f"{HOME}/a", b"v" * 1000) == OK


def test_memory_of_watches(five: Domain, guest: Any, limit: Any, refused: Any) -> None:
    before, watch_bytes = five.memory_bytes, len("/a" + "token")
    limit("memory", before + watch_bytes)
    assert refused(lambda: guest.watch("/a", "token")) == "ENOMEM"
    limit("memory", before + watch_bytes + 1)
    assert guest.watch("/a", "token") == OK
    assert five.memory_bytes == before + watch_bytes
    assert guest.unwatch("/a", "token") == OK
    assert five.memory_bytes == before


def test_memory_in_a_transaction(five: Domain, guest: Any, dom0: Any, limit: Any, refused: Any) -> None:
    """What it looked at counts as well, until it ends; then nothing of what failed is kept."""
    guest.write("a", b"v" * 100)
    before = five.memory_bytes
    limit("memory", before + 500)
    tx = guest.start()
    assert guest.read("a", tx) == b"v" * 100
    room = before + 500 - five.memory_bytes
    assert 0 < room < 500 - 100
    assert refused(lambda: guest.write("a", b"v" * (100 + room), tx)) == "EIO"
    assert guest.end(tx) == "ENOMEM"
    assert five.memory_bytes == before
    tx = guest.start()
    assert guest.write("a", b"v" * (99 + room), tx) == OK
    assert guest.end(tx) == OK
    assert five.memory_bytes == before + room - 1


def test_memory_of_copies_in_a_transaction_is_given_back(five: Domain, guest: Any, dom0: Any) -> None:
    dom0.write("/big", b"v" * 4000)
    dom0.chmod("/big", "r0")
    before = five.memory_bytes
    for how in (b"T\0", b"F\0"):
        tx = guest.start()
        guest.read("/big", tx)
        assert five.memory_bytes >= before + 4000
        assert guest.end(tx, how) == OK
        assert five.memory_bytes == before


def test_the_soft_quota_is_noted_and_limits_nothing(
    five: Domain, guest: Any, dom0: Any, core: Xenstored, tmp_path: Any
) -> None:
    trace = tmp_path / "trace"
    dom0.control("logfile", str(trace))
    assert dom0.control("quota-soft", "set", "memory", str(five.memory_bytes + 100)) == OK
    assert dom0.control("quota-soft", "set", "nodes", "7") == "EINVAL"
    for value in (b"", b"v" * 200, b"w" * 200, b"", b""):
        assert guest.write("a", value) == OK
    core.trace.close()
    notes = [line for line in trace.read_text().splitlines() if "soft memory" in line]
    assert notes == ["domain 5 exceeds its soft memory quota", "domain 5 is below its soft memory quota again"]
