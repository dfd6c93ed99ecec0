"""Whatever guests and domain 0 do, and whoever dies meanwhile: what each domain is charged is what it has.

Everything is counted again from scratch after each step: nodes and their bytes, watches, transactions and their copies,
what waits to be read (the last two of guests only), and requests that are outstanding.
"""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xenblk.abi import DOM0, Domid
from xenblk.xenstore.session import Session
from xenblk.xenstore.store import SPECIAL
from xenblk.xenstore.wire import Packet, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

GUESTS = (1, 2, 3)
# Two sessions of domain 0 and of one guest: some accounts are a domain's, some a session's.
CLIENTS = (0, 0, 1, 1, 2, 3)
CHANGES = ("WRITE", "WRITE", "MKDIR", "RM", "SET_PERMS", "READ", "DIRECTORY")

clients = st.integers(0, len(CLIENTS) - 1)
paths = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f"])
values = st.sampled_from([b"", b"1", b"x" * 20, b"x" * 150])
perms = st.lists(st.sampled_from([f"{letter}{domid}" for letter in "nb" for domid in range(4)]), min_size=1, max_size=3)
changes = st.tuples(st.sampled_from(CHANGES), paths, values, perms)
taken = st.integers(0, 5).map(bool)
"""Whether a client reads what there is for it; mostly it does, so that its requests are served."""


def _recount(core: Xenstored) -> dict[str, Counter[int]]:
    nodes, memory, watches, transactions, outstanding = (Counter[int]() for _ in range(5))
    births = {domain.domid: domain.birth for domain in core.domains}
    for path, node in core.tree._nodes.items():
        if path not in SPECIAL:
            owner = node.owner.domid if births.get(node.owner.domid) == node.owner.birth else DOM0
            nodes[owner] += 1
            memory[owner] += len(path) + 24 + 8 * len(node.perms) + len(node.value) + len(node.children)
    for found in core.watches._by_path.values():
        for watch in found:
            watches[watch.listener.domain.domid] += 1
            memory[watch.listener.domain.domid] += len(watch.path) + len(watch.token)
    causes = set()
    for session in (session for domain in core.domains for session in domain.sessions):
        domid = session.domain.domid
        transactions[domid] += len(session.transactions)
        if domid != DOM0:
            memory[domid] += sum(_copies(transaction) for transaction in session.transactions.values())
            memory[domid] += sum(len(data) for data, *_ in session._queue)
        causes |= {cause for _, cause, *_ in session._queue if cause is not None}
    for cause in causes:
        if cause.domain is core.domains.get(cause.domain.domid):
            outstanding[cause.domain.domid] += 1
    return {
        "nodes": nodes,
        "memory": memory,
        "watches": watches,
        "transactions": transactions,
        "outstanding": outstanding,
    }


def _copies(transaction: Any) -> int:
    """What was looked at, each with its path, and how what was made of it differs; a path that goes counts no more."""
    seen = {path: _bytes(path, node) for path, node in transaction._seen.items()}
    return sum(seen.values()) + sum(_bytes(path, node) - seen[path] for path, node in transaction._made.items())


def _bytes(path: str, node: Any) -> int:
    return 0 if node is None else len(path) + int(node.size_bytes)


class Accounts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Xenstored(clock=lambda: self.now_s)
        self.now_s = 0.0
        for domid in GUESTS:
            self.core.introduce(Domid(domid))
        self.core.set_perms("/", ["b0"])
        self.sessions: list[Session] = [self._connect(i) for i in range(len(CLIENTS))]

    def _connect(self, client: int) -> Session:
        return self.core.connect(Domid(CLIENTS[client]), lambda: None)

    def _ask(self, client: int, kind: str, payload: bytes, tx_id: int = 0) -> None:
        self.sessions[client].feed(Packet(XsMsgType[kind], 1, tx_id, payload).encode())

    def _change(self, client: int, change: tuple[str, str, bytes, list[str]], tx_id: int = 0) -> None:
        kind, path, value, perms = change
        rest = {"WRITE": value, "SET_PERMS": b"".join(perm.encode() + b"\0" for perm in perms)}.get(kind, b"")
        self._ask(client, kind, path.encode() + b"\0" + rest, tx_id)

    @initialize(tight=st.booleans())
    def limit(self, tight: bool) -> None:
        quotas = self.core.quotas
        quotas.node_size, quotas.watches, quotas.transactions = 200, 2, 1
        if tight:
            quotas.nodes, quotas.transaction_nodes, quotas.outstanding, quotas.memory = 2, 5, 3, 1500

    @rule(client=clients, changes=st.lists(changes, max_size=3), take=taken)
    def outside(self, client: int, changes: list[tuple[str, str, bytes, list[str]]], take: bool) -> None:
        for change in changes:
            self._change(client, change)
        if take:
            self.take_all()

    @rule(client=clients, changes=st.lists(changes, max_size=4), how=st.sampled_from([None, b"T\0", b"T\0", b"F\0"]))
    def inside(self, client: int, changes: list[tuple[str, str, bytes, list[str]]], how: bytes | None) -> None:
        """The last transaction that is open, or a new one, goes on; perhaps it ends."""
        if not self.sessions[client].transactions:
            self._ask(client, "TRANSACTION_START", b"\0")
        for tx_id in list(self.sessions[client].transactions)[-1:]:
            for change in changes:
                self._change(client, change, tx_id)
            if how:
                self._ask(client, "TRANSACTION_END", how, tx_id)
        self.take_all()

    @rule(client=clients)
    def start(self, client: int) -> None:
        self._ask(client, "TRANSACTION_START", b"\0")

    @rule(client=clients, path=paths, token=st.sampled_from([b"1", b"2"]), kind=st.sampled_from(["WATCH", "UNWATCH"]))
    def watch(self, client: int, path: str, token: bytes, kind: str) -> None:
        self._ask(client, kind, path.encode() + b"\0" + token + b"\0")

    @rule(client=clients)
    def reset_watches(self, client: int) -> None:
        self._ask(client, "RESET_WATCHES", b"\0")

    @rule(client=clients, part=st.integers(0, 100))
    def take(self, client: int, part: int) -> None:
        session = self.sessions[client]
        session.consume(len(session.output) * part // 100)

    @rule()
    def take_all(self) -> None:
        for session in self.sessions:
            while output := session.output:
                session.consume(len(output))

    @rule(passed_s=st.sampled_from([0.01, 10.0, 21.0]))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.core.tick()
        for session in self.sessions:
            session.feed(b"")

    @rule(client=clients, gone=st.booleans())
    def begin_anew(self, client: int, gone: bool) -> None:
        if gone:
            self.sessions[client].close()
            self.sessions[client] = self._connect(client)
        else:
            self.sessions[client].reset()

    @rule(domid=st.sampled_from(GUESTS), root=st.booleans(), given=paths)
    def die_and_return(self, domid: int, root: bool, given: str) -> None:
        """Perhaps it owns the root, or is given something in a transaction that is over only when it is back."""
        if root:
            self.core.set_perms("/", [f"b{domid}"])
        self._ask(0, "TRANSACTION_START", b"\0")
        last = self.sessions[0].last_transaction
        self._ask(0, "SET_PERMS", b"%s\0b%d\0" % (given.encode(), domid), last)
        domain = self.core.domains.introduced(domid)
        assert domain is not None
        self.core.release(Domid(domid))
        assert not any(node.owner.birth == domain.birth for node in self.core.tree._nodes.values())
        self.core.introduce(Domid(domid))
        for i, client in enumerate(CLIENTS):
            if client == domid:
                assert self.sessions[i].closed
                self.sessions[i] = self._connect(i)
        self._ask(0, "TRANSACTION_END", b"T\0", last)

    @rule(pair=st.permutations(GUESTS))
    def set_target(self, pair: list[int]) -> None:
        self._ask(0, "SET_TARGET", b"%d\0%d\0" % (pair[0], pair[1]))

    @invariant()
    def tree_is_whole(self) -> None:
        assert self.core.tree.check() == []

    @invariant()
    def accounts_are_right(self) -> None:
        again = _recount(self.core)
        for domain in self.core.domains:
            charged = {
                "nodes": len(domain.owned),
                "memory": domain.memory_bytes,
                "watches": domain.nr_watches,
                "transactions": domain.nr_transactions,
                "outstanding": domain.nr_outstanding,
            }
            assert charged == {name: counter[domain.domid] for name, counter in again.items()}, domain.domid
        assert self.core.nr_transactions == sum(again["transactions"].values())


Accounts.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestAccounts = Accounts.TestCase
