"""A frontend's keys: the dialects that are in use, and garbage."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.abi import EvtchnPort, GrantRef
from xenblk.blkback.frontend_keys import FrontendKeyError, FrontendKeys, QueueKeys, read_frontend_keys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import X86_32, X86_64
from xenblk.errors import BlkifPeerError

PLAIN = {"ring-ref": "8", "event-channel": "3", "protocol": "x86_64-abi", "feature-persistent": "1"}


def test_the_plain_keys_of_one_page() -> None:
    keys = read_frontend_keys(PLAIN.get, BackendParameters())
    assert keys == FrontendKeys([QueueKeys([GrantRef(8)], EvtchnPort(3))], X86_64, True)


def test_an_old_frontend_without_protocol_and_persistence() -> None:
    keys = read_frontend_keys({"ring-ref": "8", "event-channel": "3"}.get, BackendParameters())
    assert (keys.abi, keys.persistent) == (X86_32, False)
    native = read_frontend_keys(
        {"ring-ref": "8", "event-channel": "3"}.get, BackendParameters(default_protocol="x86_64-abi")
    )
    assert native.abi is X86_64


def test_a_frontend_on_arm_has_the_layout_of_64_bits() -> None:
    assert read_frontend_keys({**PLAIN, "protocol": "arm-abi"}.get, BackendParameters()).abi is X86_64


@pytest.mark.parametrize(
    "dialect",
    [{"ring-page-order": "2"}, {"num-ring-pages": "4"}, {"ring-page-order": "2", "num-ring-pages": "4"}],
    ids=str,
)
def test_more_pages_in_every_dialect(dialect: dict[str, str]) -> None:
    four = {**PLAIN, **dialect, **{f"ring-ref{i}": str(20 + i) for i in range(4)}}
    assert read_frontend_keys(four.get, BackendParameters()).queues[0].ring_refs == [20, 21, 22, 23]


@pytest.mark.parametrize("key", ["ring-ref", "ring-ref0"])
@pytest.mark.parametrize("dialect", [{}, {"ring-page-order": "0"}, {"num-ring-pages": "1"}], ids=str)
def test_one_page_in_every_dialect(dialect: dict[str, str], key: str) -> None:
    keys = {**dialect, key: "9", "event-channel": "3"}
    assert read_frontend_keys(keys.get, BackendParameters()).queues[0].ring_refs == [9]


def test_one_queue_spelled_out_has_its_keys_at_the_top() -> None:
    keys = read_frontend_keys({**PLAIN, "multi-queue-num-queues": "1"}.get, BackendParameters(max_queues=1))
    assert keys.queues == [QueueKeys([GrantRef(8)], EvtchnPort(3))]


@pytest.mark.parametrize("pages", [1, 2])
def test_queues_have_folders(pages: int) -> None:
    nodes = {"multi-queue-num-queues": "3", "protocol": "x86_64-abi"}
    if pages == 2:
        nodes["ring-page-order"] = "1"
    for n in range(3):
        nodes[f"queue-{n}/event-channel"] = str(30 + n)
        for page in range(pages):
            nodes[f"queue-{n}/ring-ref{page if pages > 1 else ''}"] = str(10 * (n + 1) + page)
    keys = read_frontend_keys(nodes.get, BackendParameters(max_queues=3))
    assert [queue.event_channel for queue in keys.queues] == [30, 31, 32]
    assert [queue.ring_refs for queue in keys.queues] == [[10 * (n + 1) + i for i in range(pages)] for n in range(3)]


@pytest.mark.parametrize(
    ("changes", "number", "sentence"),
    [
        ({"ring-ref": None}, errno.EINVAL, "^reading ring-ref: the frontend must write `ring-ref`"),
        ({"event-channel": None}, errno.EINVAL, "^reading event-channel: the frontend must write `event-channel`"),
        ({"event-channel": "abc"}, errno.EINVAL, "`event-channel` is a number"),
        ({"event-channel": "-1"}, errno.EINVAL, "`event-channel` is a number"),
        ({"event-channel": "4294967296"}, errno.EINVAL, "from 0 to 4294967295"),
        ({"event-channel": "9" * 4096}, errno.EINVAL, "`event-channel` is a number"),
        ({"ring-page-order": "5"}, errno.EINVAL, "^requested ring page order 5: `ring-page-order` is at most 4"),
        ({"ring-page-order": "4294967295"}, errno.EINVAL, "^requested ring page order"),
        ({"ring-page-order": "1"}, errno.EINVAL, "must write `ring-ref0`"),
        ({"num-ring-pages": "3"}, errno.EINVAL, "a power of two from 1 to 16, not 3"),
        ({"num-ring-pages": "0"}, errno.EINVAL, "a power of two from 1 to 16, not 0"),
        ({"num-ring-pages": "32"}, errno.EINVAL, "a power of two from 1 to 16, not 32"),
        ({"protocol": "sparc-abi"}, errno.ENOSYS, "^unknown fe protocol 'sparc-abi': `protocol` is one of"),
        ({"multi-queue-num-queues": "5"}, errno.ENOSYS, "^guest requested 5 queues: .* is 1 to 4"),
        ({"multi-queue-num-queues": "0"}, errno.ENOSYS, "^guest requested 0 queues"),
        ({"multi-queue-num-queues": "2"}, errno.EINVAL, "must write `queue-0/event-channel`"),
    ],
)
def test_garbage_is_linuxs_errno_and_a_sentence(changes: dict[str, str | None], number: int, sentence: str) -> None:
    keys = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    with pytest.raises(FrontendKeyError, match=sentence) as e:
        read_frontend_keys(keys.get, BackendParameters(max_queues=4))
    assert e.value.number == number


@pytest.mark.parametrize("value", ["0", "2", "01", "yes", "true"])
def test_persistence_is_only_ever_a_one(value: str) -> None:
    assert not read_frontend_keys({**PLAIN, "feature-persistent": value}.get, BackendParameters()).persistent


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "ring-ref",
                "ring-ref0",
                "ring-page-order",
                "num-ring-pages",
                "event-channel",
                "protocol",
                "multi-queue-num-queues",
                "queue-0/event-channel",
                "queue-0/ring-ref",
            ]
        ),
        st.text(max_size=12) | st.integers(-9, 1 << 33).map(str),
    )
)
def test_whatever_is_written_is_keys_or_a_peer_error(keys: dict[str, str]) -> None:
    try:
        found = read_frontend_keys(keys.get, BackendParameters())
    except BlkifPeerError:
        return
    assert all(1 <= len(queue.ring_refs) <= 16 for queue in found.queues)
    assert found.queues
