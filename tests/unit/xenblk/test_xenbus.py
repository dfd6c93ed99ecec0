"""The handshake's table: every pair of states has an answer, and the answers are Linux's."""

import pytest

from xenblk.xenbus import BackendAction, FrontendAction, XenbusState, backend_action, frontend_action, parse_state

S = XenbusState


@pytest.mark.parametrize("own", list(S))
@pytest.mark.parametrize("peer", list(S))
def test_every_pair_of_states_has_an_action(own: XenbusState, peer: XenbusState) -> None:
    assert backend_action(own, peer) in BackendAction
    assert frontend_action(own, peer) in FrontendAction


def test_parse_state_takes_anything_but_a_state_for_unknown() -> None:
    assert [parse_state(str(n)) for n in range(9)] == list(S)
    for text in (None, "", "9", "-1", "4 ", "0x4", "four", "44", "\x00"):
        assert parse_state(text) is S.UNKNOWN


def run_handshake(frontend_skips_to: XenbusState) -> list[tuple[XenbusState, XenbusState]]:
    """Let both tables drive each other from the toolstack's first write; returns the states they went through."""
    back, front = S.INITWAIT, S.INITIALISING
    seen = [(back, front)]
    while (back, front) != (S.CONNECTED, S.CONNECTED):
        action = frontend_action(front, back)
        if action is FrontendAction.SETUP:
            front = frontend_skips_to
        elif action in (FrontendAction.CONNECT, FrontendAction.SETUP_AND_CONNECT):
            front = S.CONNECTED
        if backend_action(back, front) is BackendAction.CONNECT:
            back = S.CONNECTED
        assert seen[-1] != (back, front), f"stuck at {seen[-1]}"
        seen.append((back, front))
    return seen


def test_a_normal_start_connects() -> None:
    assert run_handshake(S.INITIALISED) == [
        (S.INITWAIT, S.INITIALISING),
        (S.CONNECTED, S.INITIALISED),
        (S.CONNECTED, S.CONNECTED),
    ]


def test_a_frontend_that_jumps_to_connected_is_served() -> None:
    assert run_handshake(S.CONNECTED)[-1] == (S.CONNECTED, S.CONNECTED)


def test_initwait_seen_twice_sets_up_once() -> None:
    assert frontend_action(S.INITIALISING, S.INITWAIT) is FrontendAction.SETUP
    assert frontend_action(S.INITIALISED, S.INITWAIT) is FrontendAction.IGNORE


@pytest.mark.parametrize("own", [S.INITIALISED, S.CONNECTED])
def test_a_backend_whose_nodes_vanish_is_lost(own: XenbusState) -> None:
    assert frontend_action(own, S.UNKNOWN) is FrontendAction.LOST


@pytest.mark.parametrize("peer", [S.INITWAIT, S.RECONFIGURING, S.RECONFIGURED])
def test_a_frontend_in_a_backends_state_is_refused(peer: XenbusState) -> None:
    assert backend_action(S.INITWAIT, peer) is BackendAction.REFUSE


def test_a_closed_backend_prepares_for_a_frontend_that_starts_over() -> None:
    assert backend_action(S.CLOSED, S.INITIALISING) is BackendAction.PREPARE
    assert backend_action(S.INITWAIT, S.INITIALISING) is BackendAction.IGNORE


def test_regression_a_frontend_that_starts_over_waits_for_a_backend_that_is_closed() -> None:
    assert frontend_action(S.INITIALISING, S.CLOSED) is FrontendAction.IGNORE
    assert frontend_action(S.INITIALISING, S.CLOSING) is FrontendAction.CLOSE


def test_a_connected_frontend_takes_a_second_connected_for_a_resize() -> None:
    assert frontend_action(S.CONNECTED, S.CONNECTED) is FrontendAction.RESIZE
