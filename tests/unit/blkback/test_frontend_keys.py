"""A frontend's keys: the dialects that are in use, and garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.blkback.frontend_keys import read_frontend_keys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import X86_32, X86_64
from xenblk.errors import BlkifPeerError

PLAIN = {"ring-ref": "8", "event-channel": "3", "protocol": "x86_64-abi", "feature-persistent": "1"}


def read(keys: dict[str, str], **parameters: object) -> object:
    return read_frontend_keys(keys.get, BackendParameters(**parameters))  # type: ignore[arg-type]


def test_the_plain_keys_of_one_page() -> None:
    keys = read_frontend_keys(PLAIN.get, BackendParameters())
    assert (keys.ring_refs, keys.event_channel, keys.abi, keys.persistent) == ([8], 3, X86_64, True)


def test_an_old_frontend_without_protocol_and_persistence() -> None:
    keys = read_frontend_keys({"ring-ref": "8", "event-channel": "3"}.get, BackendParameters())
    assert (keys.abi, keys.persistent) == (X86_32, False)
    native = read_frontend_keys(
        {"ring-ref": "8", "event-channel": "3"}.get, BackendParameters(default_protocol="x86_64-abi")
    )
    assert native.abi is X86_64


def test_more_pages_and_order_zero_spelled_out() -> None:
    four = {**PLAIN, "ring-page-order": "2", **{f"ring-ref{i}": str(20 + i) for i in range(4)}}
    assert read_frontend_keys(four.get, BackendParameters()).ring_refs == [20, 21, 22, 23]
    for key in ("ring-ref", "ring-ref0"):
        keys = {"ring-page-order": "0", key: "9", "event-channel": "3"}
        assert read_frontend_keys(keys.get, BackendParameters()).ring_refs == [9]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ring-ref": None}, "must write `ring-ref0`|must write `ring-ref`"),
        ({"event-channel": None}, "must write `event-channel`"),
        ({"event-channel": "abc"}, "`event-channel` is a number"),
        ({"event-channel": "-1"}, "`event-channel` is a number"),
        ({"event-channel": "4294967296"}, "from 0 to 4294967295"),
        ({"ring-page-order": "5"}, "at most 4, not 5"),
        ({"ring-page-order": "1"}, "must write `ring-ref0`"),
        ({"protocol": "sparc-abi"}, "`protocol` is one of"),
        ({"multi-queue-num-queues": "2"}, "at most 1"),
    ],
)
def test_garbage_is_a_sentence(changes: dict[str, str | None], sentence: str) -> None:
    keys = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    with pytest.raises(BlkifPeerError, match=sentence):
        read(keys)


@pytest.mark.parametrize("value", ["0", "2", "01", "yes", "true"])
def test_persistence_is_only_ever_a_one(value: str) -> None:
    assert not read_frontend_keys({**PLAIN, "feature-persistent": value}.get, BackendParameters()).persistent


@given(
    st.dictionaries(
        st.sampled_from(
            ["ring-ref", "ring-ref0", "ring-page-order", "event-channel", "protocol", "multi-queue-num-queues"]
        ),
        st.text(max_size=12) | st.integers(-9, 1 << 33).map(str),
    )
)
def test_whatever_is_written_is_keys_or_a_peer_error(keys: dict[str, str]) -> None:
    try:
        found = read_frontend_keys(keys.get, BackendParameters())
    except BlkifPeerError:
        return
    assert 1 <= len(found.ring_refs) <= 16
