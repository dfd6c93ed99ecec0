"""Our xenstored beside the real one, over scripts that are made up: each answer and each event is the same.

tests/oracle/run.py does that for as long as one likes, and takes the seeds that fail here.
"""

from random import Random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from oracle.daemon import lacking
from oracle.duel import DifferenceError, Duel, duel
from oracle.ledger import Step
from oracle.script import as_a_toolstack
from oracle.shrink import shrink
from oracle.tally import Tally
from oracle.vocabulary import PERMS, strings

from xenblk.xenstore.transaction import Transaction
from xenblk.xenstore.wire import XsMsgType

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@pytest.mark.parametrize("seed", range(1, 21))
def test_seed(seed: int) -> None:
    with duel() as both:
        try:
            both.run(Random(seed), 500)
            return
        except DifferenceError as e:
            found = e
    pytest.fail(f"seed {seed}, the shortest script found:\n\n{shrink(both.done, found)}", pytrace=False)


PATHS = ("/a", "/a/b", "/a/b/c", "/f", "x", "x/y")
PATH = st.sampled_from(PATHS).map(strings)
PAYLOADS = {
    **dict.fromkeys((XsMsgType.READ, XsMsgType.DIRECTORY, XsMsgType.GET_PERMS, XsMsgType.MKDIR, XsMsgType.RM), PATH),
    XsMsgType.WRITE: PATH.map(lambda path: path + b"value"),
    XsMsgType.SET_PERMS: st.builds(
        lambda path, perms: strings(path, *perms.split(" ")), st.sampled_from(PATHS), st.sampled_from(PERMS)
    ),
    XsMsgType.WATCH: st.sampled_from((*PATHS, "/", "@releaseDomain")).map(lambda path: strings(path, "token")),
    XsMsgType.TRANSACTION_START: st.just(b"\0"),
    XsMsgType.TRANSACTION_END: st.sampled_from((b"T\0", b"F\0")),
}
REQUEST = st.sampled_from([*PAYLOADS]).flatmap(lambda kind: st.tuples(st.just(kind), PAYLOADS[kind]))
EVENT = st.sampled_from(("create", "destroy", "shut_down"))


class Both(RuleBasedStateMachine):
    """What matters most, nodes, permissions, transactions and watches, few of each; hypothesis looks for trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.duel = Duel(Tally())

    @initialize()
    def two_guests(self) -> None:
        for name in ("1", "2"):
            for step in (Step("create", name), *as_a_toolstack(name)):
                self.duel.do(step)

    @rule(name=st.sampled_from(("A", "B", "1", "2")), request=REQUEST, which=st.integers(0, 2))
    def ask(self, name: str, request: tuple[XsMsgType, bytes], which: int) -> None:
        kind, payload = request
        mine = self.duel.ledger.transactions.get(name, [])
        inside = kind != XsMsgType.TRANSACTION_START and (which > 0 or kind == XsMsgType.TRANSACTION_END)
        self._do(Step("ask", name, kind, mine[which % len(mine)] if mine and inside else 0, payload))

    @rule(name=st.sampled_from(("1", "2")), event=EVENT, rarely=st.integers(0, 3))
    def befall(self, name: str, event: str, rarely: int) -> None:
        if rarely == 0:
            self._do(Step(event, name))

    def _do(self, step: Step) -> None:
        if self.duel.ledger.allows(step):
            self.duel.do(step)
            self.duel.fence()

    def teardown(self) -> None:
        self.duel.close()


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=30, stateful_step_count=50, derandomize=True, database=None, deadline=None)


def test_hypothesis_finds_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "conflicts", lambda self: False)
    once = settings(TestBoth.settings, max_examples=200, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(DifferenceError, match="\nours: "):
        run_state_machine_as_test(Both, settings=once)
