"""A guest's writes while somebody is in a transaction: a burst of ten, then 200 a second, shared by those who write."""

from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.wire import Packet, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
BURST = 11
"""Ten writes of credit, and one on loan: then it waits until that is paid back."""

EACH_S = 1 / 200


@pytest.fixture
def writer(client: Any) -> Any:
    return client(1)


@pytest.fixture
def open_one(client: Any) -> Any:
    """Domain 0 is in a transaction."""
    dom0 = client(0)
    dom0.send(XsMsgType.TRANSACTION_START, b"\0")
    dom0.take()
    return dom0


def served(who: Any) -> int:
    """How many requests were answered since the last time."""
    return sum(kind != "WATCH_EVENT" for kind, _ in who.take())


def test_without_a_transaction_nothing_is_limited(timed: Xenstored, writer: Any) -> None:
    for _ in range(100):
        writer.write("/all", 10)
        assert served(writer) == 10
    assert timed.due_s is None


def test_a_burst_then_one_after_another(timed: Xenstored, writer: Any, open_one: Any, pass_s: Any, clock: Any) -> None:
    writer.write("/all", 15)
    assert served(writer) == BURST
    assert timed.due_s == pytest.approx(clock.now_s + EACH_S)
    for _ in range(4):
        pass_s(EACH_S * 0.9)
        assert served(writer) == 0
        pass_s(EACH_S * 0.11)
        assert served(writer) == 1
    pass_s(10.0)
    writer.write("/all", 15)
    assert served(writer) == BURST


def test_credit_grows_to_a_burst_and_no_further(writer: Any, open_one: Any, pass_s: Any) -> None:
    writer.write("/all", BURST)
    for waited_s, allowed in ((EACH_S * 5.1, 5), (EACH_S * 1.1, 1), (EACH_S * 100, BURST), (1e6, BURST)):
        served(writer)
        pass_s(waited_s)
        writer.write("/all", 20)
        assert served(writer) == allowed
        writer.session.reset()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("READ", b"/all\0"),
        ("DIRECTORY", b"/all\0"),
        ("WATCH", b"/all\0\0"),
        ("GET_DOMAIN_PATH", b"1\0"),
        ("TRANSACTION_END", b"F\0"),
    ],
)
def test_what_costs_nothing(writer: Any, open_one: Any, kind: str, payload: bytes) -> None:
    writer.send(XsMsgType[kind], payload, times=100)
    assert served(writer) == 100


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("WRITE", b"/nowhere\0"),
        ("MKDIR", b"/all\0"),
        ("RM", b"/all/none\0"),
        ("SET_PERMS", b"/all\0x\0"),
        ("TRANSACTION_END", b"T\0"),
    ],
)
def test_what_costs_whether_it_succeeds_or_not(writer: Any, open_one: Any, kind: str, payload: bytes) -> None:
    writer.send(XsMsgType[kind], payload, times=100)
    assert served(writer) == BURST


def _whole_transactions(writer: Any, count: int) -> None:
    for i in range(1, count + 1):
        writer.send(XsMsgType.TRANSACTION_START, b"\0")
        writer.send(XsMsgType.WRITE, b"/all\0", tx=i, times=5)
        writer.send(XsMsgType.TRANSACTION_END, b"T\0", tx=i)


def test_a_whole_transaction_costs_one(writer: Any, open_one: Any) -> None:
    _whole_transactions(writer, 20)
    assert served(writer) == BURST * 7


def test_a_transaction_alone_costs_nothing(timed: Xenstored, writer: Any) -> None:
    _whole_transactions(writer, 20)
    assert served(writer) == 20 * 7
    assert timed.due_s is None


def test_domain_0_is_not_limited(client: Any, open_one: Any) -> None:
    dom0 = client(0)
    dom0.write("/all", 1000)
    assert served(dom0) == 1000


def test_two_share_the_rate_and_others_are_not_delayed(client: Any, open_one: Any, pass_s: Any) -> None:
    writers, reader = [client(1), client(2)], client(3)
    for writer in writers:
        writer.write("/all", 30)
    assert [served(writer) for writer in writers] == [BURST, BURST]
    reader.send(XsMsgType.READ, b"/all\0", times=50)
    assert served(reader) == 50
    reader.write("/all", 5)
    assert served(reader) == 5
    pass_s(1.5 * EACH_S)
    assert [served(writer) for writer in writers] == [0, 0]
    pass_s(1.5 * EACH_S + 1e-6)
    assert [served(writer) for writer in writers] == [1, 1]


def test_who_waits_for_one_session_waits_with_all(client: Any, open_one: Any, pass_s: Any) -> None:
    one, other = client(1), client(1)
    one.write("/all", BURST)
    assert served(one) == BURST
    other.send(XsMsgType.READ, b"/all\0")
    assert served(other) == 0
    pass_s(EACH_S * 1.01)
    assert served(other) == 1


def test_the_end_of_the_transaction_frees_whoever_is_paid_up(writer: Any, open_one: Any, pass_s: Any) -> None:
    writer.write("/all", 50)
    assert served(writer) == BURST
    open_one.send(XsMsgType.TRANSACTION_END, b"F\0", tx=1)
    pass_s(EACH_S * 1.01)
    assert served(writer) == 50 - BURST


def test_a_debt_dies_with_its_domain(timed: Xenstored, client: Any, open_one: Any) -> None:
    writer = client(1)
    writer.write("/all", 50)
    assert served(writer) == BURST
    timed.release(Domid(1))
    timed.introduce(Domid(1))
    again = client(1)
    again.write("/all", 50)
    assert served(again) == BURST


def test_xsa_206_domain_0_finishes_while_a_guest_writes_all_the_time(client: Any, open_one: Any, pass_s: Any) -> None:
    """Each round takes half a millisecond; without the limit the guest's write would come in each of them."""
    writer = client(1)
    writer.write("/all/target", 2000)
    tries = 0
    while open_one.take()[-1:] != [("TRANSACTION_END", OK)]:
        tries += 1
        served(writer)
        open_one.send(XsMsgType.TRANSACTION_START, b"\0")
        tx = int(open_one.take()[0][1][:-1])
        open_one.send(XsMsgType.READ, b"/all/target\0", tx)
        pass_s(EACH_S / 10)
        open_one.session.feed(Packet(XsMsgType.TRANSACTION_END, 1, tx, b"T\0").encode())
    assert tries <= 2
