"""The store against a dictionary: whatever two clients do, in transactions or not, it could have been done in turn.

A transaction's answers are kept; when its commit succeeds, the same operations are done to the dictionary all at once
and must give the same answers. When it fails, somebody else has changed something since it began.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from xenblk.abi import DOM0
from xenblk.xenstore.session import Session
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
OPERATIONS = {name: XsMsgType[name] for name in ("READ", "DIRECTORY", "WRITE", "MKDIR", "RM")}

# Few paths, so that the clients get into each other's way.
paths = st.sampled_from(["/a", "/a/b", "/a/b/c", "/a/d", "/e"])
names = st.sampled_from([*OPERATIONS])
values = st.sampled_from([b"", b"1", b"2\0"])
sessions = st.integers(0, 1)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


class Model:
    """Values by path; children are in the order in which they came."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {"/": b"", "/tool": b"", "/tool/xenstored": b""}

    def do(self, name: str, path: str, value: bytes) -> tuple[bytes | str, list[str]]:
        """The answer, and the events that a watch on / gets."""
        there = path in self.nodes
        if name == "WRITE" or (name == "MKDIR" and not there):
            self._make(path)
            self.nodes[path] = value if name == "WRITE" else b""
            return OK, [path]
        if name == "MKDIR":
            return OK, []
        if name == "RM":
            if not there:
                return (OK if _parent(path) in self.nodes else "ENOENT"), []
            self.nodes = {at: v for at, v in self.nodes.items() if at != path and not at.startswith(f"{path}/")}
            return OK, [path]
        if not there:
            return "ENOENT", []
        return (self.nodes[path] if name == "READ" else self._names(path)), []

    def _make(self, path: str) -> None:
        if path not in self.nodes:
            self._make(_parent(path))
            self.nodes[path] = b""

    def _names(self, path: str) -> bytes:
        children = [at for at in self.nodes if at != "/" and _parent(at) == path]
        return b"".join(at.rpartition("/")[2].encode() + b"\0" for at in children)


class Running:
    """A transaction: its session and number, what it did, and the number of changes to the store when it began."""

    def __init__(self, session: int, tx: int, changes: int) -> None:
        self.session, self.tx, self.changes = session, tx, changes
        self.done: list[tuple[str, str, bytes, bytes | str]] = []


class Store(RuleBasedStateMachine):
    transactions: Bundle[Running] = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.core, self.model, self.changes = Xenstored(), Model(), 0
        self.sessions = [self.core.connect(DOM0, lambda: None) for _ in range(2)]
        self.watcher = self.core.connect(DOM0, lambda: None)
        self.watcher.feed(Packet(XsMsgType.WATCH, 1, 0, b"/\0t\0").encode())
        for path in ("/a/b/c", "/a/d"):
            self.core.write(path, b"")
            self.model.do("WRITE", path, b"")
        self._take(self.watcher)

    def _take(self, session: Session) -> list[Packet]:
        data = b""
        while piece := session.output:
            session.consume(len(piece))
            data += piece
        return list(PacketParser().feed(data))

    def _ask(self, session: int, kind: int, tx: int, payload: bytes) -> bytes | str:
        self.sessions[session].feed(Packet(kind, 7, tx, payload).encode())
        (reply,) = self._take(self.sessions[session])
        assert (reply.req_id, reply.tx_id) == (7, tx)
        return reply.payload[:-1].decode() if reply.type == XsMsgType.ERROR else reply.payload

    def _events(self) -> list[str]:
        return [packet.payload.split(b"\0")[0].decode() for packet in self._take(self.watcher)]

    def _operate(self, session: int, tx: int, name: str, path: str, value: bytes) -> bytes | str:
        payload = path.encode() + b"\0" + (value if name == "WRITE" else b"")
        return self._ask(session, OPERATIONS[name], tx, payload)

    @rule(session=sessions, name=names, path=paths | st.just("/"), value=values)
    def outside(self, session: int, name: str, path: str, value: bytes) -> None:
        answer = self._operate(session, 0, name, path, value)
        if (name, path) == ("RM", "/"):
            assert answer == "EINVAL"
            return
        expected, events = self.model.do(name, path, value)
        assert answer == expected
        assert self._events() == events
        self.changes += len(events)

    @rule(target=transactions, session=sessions)
    def start(self, session: int) -> Running:
        answer = self._ask(session, XsMsgType.TRANSACTION_START, 0, b"\0")
        assert isinstance(answer, bytes)
        return Running(session, int(answer[:-1]), self.changes)

    @rule(running=transactions, operations=st.lists(st.tuples(names, paths, values), min_size=1, max_size=4))
    def inside(self, running: Running, operations: list[tuple[str, str, bytes]]) -> None:
        for name, path, value in operations:
            answer = self._operate(running.session, running.tx, name, path, value)
            running.done.append((name, path, value, answer))
        assert self._events() == []

    @rule(running=consumes(transactions), committed=st.booleans())
    def end(self, running: Running, committed: bool) -> None:
        if committed:
            self._commit(running)
            return
        assert self._ask(running.session, XsMsgType.TRANSACTION_END, running.tx, b"F\0") == OK
        assert self._events() == []

    @rule(session=sessions, steps=st.lists(st.tuples(st.booleans(), names, paths, values), min_size=3, max_size=8))
    def race(self, session: int, steps: list[tuple[bool, str, str, bytes]]) -> None:
        """A whole transaction, its steps mixed with those of the other client."""
        running = self.start(session)
        for is_inside, name, path, value in steps:
            if is_inside:
                self.inside(running, [(name, path, value)])
            else:
                self.outside(1 - session, name, path, value)
        self.end(running, True)

    def _commit(self, running: Running) -> None:
        answer = self._ask(running.session, XsMsgType.TRANSACTION_END, running.tx, b"T\0")
        events = self._events()
        if answer == "EAGAIN":
            assert self.changes > running.changes, "nobody else changed anything"
            assert events == []
            return
        assert answer == OK
        before, told = dict(self.model.nodes), set()
        for name, path, value, seen in running.done:
            expected, changed = self.model.do(name, path, value)
            assert seen == expected, f"{name} {path} as if done now"
            told.update(changed)
        self._explain(before, events, told)
        self.changes += len(told)

    def _explain(self, before: dict[str, bytes], events: list[str], told: set[str]) -> None:
        """Each event is of a change that was made, and each difference has one, at the node or above it. Parents that
        were made on the way have none of their own."""
        assert len(events) == len(set(events))
        assert set(events) <= told
        after = self.model.nodes
        for path in {at for at in {*before, *after} if before.get(at) != after.get(at)}:
            by_event = any(f"{path}/".startswith(f"{at}/") for at in events)
            assert by_event or any(at.startswith(f"{path}/") for at in told), path

    @invariant()
    def same_tree(self) -> None:
        found, todo = {}, ["/"]
        while todo:
            path = todo.pop()
            found[path] = self.core.read(path)
            todo += [f"{path.rstrip('/')}/{name}" for name in self.core.directory(path)]
        assert found == self.model.nodes


Store.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestStore = Store.TestCase
