"""That a comparison with the real xenstored finds what it is for, and that no intended difference is obsolete."""

import signal
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from oracle import run
from oracle.daemon import lacking
from oracle.differences import EXPLAINED
from oracle.duel import DifferenceError, Duel, duel
from oracle.ledger import Step
from oracle.script import as_a_toolstack
from oracle.shrink import replay, shrink
from oracle.vocabulary import strings
from oracle.worlds import PROMPT_S

from xenblk.xenstore import requests
from xenblk.xenstore.session import Session
from xenblk.xenstore.transaction import Transaction
from xenblk.xenstore.tree import Tree
from xenblk.xenstore.wire import XsMsgType

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

Break = Callable[[pytest.MonkeyPatch], None]


def ask(name: str, kind: str, *texts: str, tx: int = 0) -> Step:
    return Step("ask", name, XsMsgType[kind], tx, strings(*texts))


GUEST = (Step("create", "1"), *as_a_toolstack("1"))


# Defects of ours


def directory_in_alphabetical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def sorted_directory(*args: Any) -> bytes:
        names = directory(*args).split(b"\0")[:-1]
        return b"".join(name + b"\0" for name in sorted(names))

    directory = requests.HANDLERS[XsMsgType.DIRECTORY]
    monkeypatch.setitem(requests.HANDLERS, XsMsgType.DIRECTORY, sorted_directory)


def no_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "conflicts", lambda self: False)


def no_events_for_what_goes_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(self: Tree, path: str, node: Any, *, exact: bool = False, **options: Any) -> None:
        if not exact:
            full(self, path, node, **options)

    full = Tree.changed
    monkeypatch.setattr(Tree, "changed", changed)


def each_event_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_event(self: Session, path: str, token: bytes) -> None:
        for _ in range(2):
            once(self, path, token)
            self._events.clear()

    once = Session.send_event
    monkeypatch.setattr(Session, "send_event", send_event)


def nodes_outlive_their_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "remove_owned", lambda self, domain: None)


def an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "remove_owned", lambda self, domain: 1 // 0)


@pytest.mark.parametrize(
    "break_it",
    [
        an_exception,
        directory_in_alphabetical_order,
        no_conflicts,
        no_events_for_what_goes_with_its_parent,
        each_event_twice,
        nodes_outlive_their_owners,
    ],
)
def test_a_defect_is_found_and_cut_down(monkeypatch: pytest.MonkeyPatch, break_it: Break) -> None:
    """To at most eight steps. All of them do no harm to a server without the defect."""
    break_it(monkeypatch)
    both, found = first_difference()
    shrunk = shrink(both.done, found)
    assert len(steps_of(shrunk)) <= 8 < len(both.done), shrunk
    monkeypatch.undo()
    assert replay(both.done) is None


def steps_of(difference: DifferenceError) -> list[str]:
    return str(difference).partition("\n\n")[0].splitlines()


def first_difference() -> tuple[Duel, DifferenceError]:
    for seed in range(1, 50):
        with duel() as both:
            try:
                both.run(Random(seed), 150)
            except DifferenceError as e:
                return both, e
    raise AssertionError("the defect was not found")


def test_the_real_one_dies() -> None:
    for step in (ask("A", "READ", "/"), ask("1", "READ", "/"), Step("shut_down", "1"), Step("reconnect", "A")):
        with duel() as both:
            for before in GUEST:
                both.do(before)
            both.real.daemon.process.kill()
            both.real.daemon.process.wait()
            with pytest.raises(DifferenceError, match="the real one: "):
                both.do(step)


def test_regression_a_slow_daemon_is_no_difference() -> None:
    with duel() as both:
        for before in GUEST:
            both.do(before)
        for step in (ask("A", "READ", "/"), ask("1", "READ", "/")):
            both.real.daemon.process.send_signal(signal.SIGSTOP)
            awake = threading.Timer(3 * PROMPT_S, both.real.daemon.process.send_signal, [signal.SIGCONT])
            awake.start()
            both.do(step)
            awake.join()
        both.fence()


def test_a_difference_that_does_not_come_again_stays_what_it_was() -> None:
    found = DifferenceError("once")
    assert shrink([ask("A", "READ", "/")], found) is found


# Intended differences

MET = (
    [ask("A", "GET_PERMS", "@releaseDomain")],
    [ask("A", "CONTROL", "help")],
    [*GUEST, ask("1", "TRANSACTION_START", ""), ask("1", "MKDIR", "x", tx=1), ask("A", "CONTROL", "quota", "1")],
    [*GUEST, ask("B", "WATCH", "@releaseDomain", "token"), ask("B", "RELEASE", "1")],
)


def test_each_explained_difference_has_its_script() -> None:
    assert len(MET) == len(EXPLAINED)


@pytest.mark.parametrize("row", range(len(MET)))
def test_what_is_explained_is_met(row: int) -> None:
    """In the last step, and only there."""
    with duel() as both:
        for step in MET[row]:
            assert not both.tally.explained
            both.do(step)
        both.fence()
        assert both.tally.explained == {row: 1}


@pytest.mark.parametrize("row", range(len(MET)))
def test_what_is_not_explained_is_a_difference(monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    monkeypatch.setattr("oracle.duel.EXPLAINED", ())
    difference = replay(MET[row])
    assert difference is not None
    assert str(MET[row][-1]) == steps_of(difference)[-1]


# The command


def command(*options: str) -> Result:
    return CliRunner().invoke(run.main, options)


def test_a_run_without_a_difference() -> None:
    result = command("--steps", "300", "--seed", "7", "--steps-per-duel", "200")
    assert result.exit_code == 0, result.output
    assert "steps of seed 7 to 8: " in result.output
    assert all(name in result.output for name in ("TRANSACTION_END", "events of nodes, to domain 0", "live-update"))


def test_a_run_with_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    no_conflicts(monkeypatch)
    result = command("--replay", "3")
    assert result.exit_code == 1, result.output
    assert "seed 3, the shortest script found:" in result.output
    assert "\nours: " in result.output


def test_a_run_without_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "lacking", lambda: "the real xenstored is not at hand")
    result = command()
    assert (result.exit_code, result.output) == (2, "the real xenstored is not at hand\n")


def test_a_run_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_once(self: Duel, chance: Random, nr_steps: int) -> None:
        begun.append(self)
        if len(begun) == 2:
            raise KeyboardInterrupt
        full(self, chance, nr_steps)

    begun: list[Duel] = []
    full = Duel.run
    monkeypatch.setattr(Duel, "run", run_once)
    result = command("--seed", "5")
    assert result.exit_code == 130
    assert "steps of seed 5 to 6: " in result.output
    assert result.output.endswith("then interrupted.\n")
    assert all(both.real.daemon.process.poll() is not None for both in begun)
