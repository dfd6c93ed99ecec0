"""Transactions: a private view of the nodes that are touched, checked against the live tree when it is committed.

Theory. The first time a transaction looks at a node, it remembers the version that it saw (or that there was none);
every later look gives the same version, or what the transaction made of it. At commit each remembered version must
still be the live one: then the transaction could just as well have run all at once, now, and its changes are applied.
If any differs, EAGAIN, and nothing happened. There is no snapshot at the start: a node that is looked at late is seen
with changes that others made meanwhile, and that is as good, because all that counts is that nothing which was seen has
changed by the time of the commit.

To write a node is to look at it first. To make or remove a node is to look at its parent and to change it, since the
parent names its children; to find that a node is missing is to look at the nearest ancestor. So, with T inside, O
outside:

    T reads A, O writes A, T commits           A's version differs                     EAGAIN
    T reads A, O writes B, T commits           A is the same, B was not looked at      OK
    T writes A, O writes A, T commits          T looked at A to write it               EAGAIN
    T makes D/x, O makes D/y, T commits        both changed D's list of children       EAGAIN
    T lists D, O writes D/x, T commits         D's list is the same                    OK
    T finds C missing, O makes its sibling     T looked at the parent                  EAGAIN

Events are sent at commit only, once per node that changed, in the order of first look; a node that was made and removed
inside sends none. A node that went with the subtree it was in concerns its own watches only, as outside a transaction.
"""

from xenblk.xenstore.store import Node, View


class Transaction:
    """One transaction's view. `commit` applies it to the view that it was started on, or changes nothing."""

    def __init__(self, live: View) -> None:
        self._live = live
        self._seen: dict[str, Node | None] = {}
        self._made: dict[str, Node | None] = {}
        self._exact: dict[str, bool] = {}

    def get(self, path: str) -> Node | None:
        """See View."""
        if path in self._made:
            return self._made[path]
        if path not in self._seen:
            self._seen[path] = self._live.get(path)
        return self._seen[path]

    def put(self, path: str, node: Node) -> None:
        """See View."""
        self.get(path)
        self._made[path] = node

    def drop(self, path: str) -> None:
        """See View."""
        self.get(path)
        self._made[path] = None

    def changed(self, path: str, before: Node | None, *, exact: bool = False) -> None:
        """See View; events wait for the commit, and the last change of a node says whom they concern."""
        self._exact[path] = exact

    def conflicts(self) -> bool:
        """Whether anything that was looked at has changed."""
        return any(_version(self._live.get(path)) != _version(seen) for path, seen in self._seen.items())

    def commit(self) -> bool:
        """Apply everything at once; False, and nothing, if there is a conflict."""
        if self.conflicts():
            return False
        for path, node in self._made.items():
            if node is None:
                if self._live.get(path) is not None:
                    self._live.drop(path)
            else:
                self._live.put(path, node)
        for path in self._seen:
            if path in self._exact:
                self._announce(path)
        return True

    def _announce(self, path: str) -> None:
        before, after = self._seen[path], self._made.get(path)
        if before is not None or after is not None:
            self._live.changed(path, before, exact=self._exact[path])


def _version(node: Node | None) -> int:
    return -1 if node is None else node.generation
