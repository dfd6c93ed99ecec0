"""How long a wait is may be said for all of a thread's waits at once, and all may be given up."""

import threading

import pytest

from xenblk.harness.wire.deadline import DEADLINE_S, DeadlineError, patience, patience_s, wait_for


def test_what_is_there_is_not_waited_for() -> None:
    assert wait_for(lambda: "found", "it", 0) == "found"


def test_a_wait_ends_with_what_it_was_for() -> None:
    with pytest.raises(DeadlineError, match=r"waited 0\.01 s for an elephant"):
        wait_for(lambda: None, "an elephant", 0.01)


def test_patience_is_that_of_the_waits_within() -> None:
    with patience(0.01), pytest.raises(DeadlineError, match=r"waited 0\.01 s"):
        wait_for(lambda: None, "nothing")
    assert patience_s() == DEADLINE_S


def test_patience_is_one_threads() -> None:
    found = []
    with patience(0.01):
        thread = threading.Thread(target=lambda: found.append(patience_s()))
        thread.start()
        thread.join()
    assert found == [DEADLINE_S]


def test_a_wait_without_end_can_be_given_up() -> None:
    with patience(float("inf"), lambda: True), pytest.raises(DeadlineError, match="for nothing"):
        wait_for(lambda: None, "nothing")
