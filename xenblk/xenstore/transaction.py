"""Transactions: a private view of the nodes that are touched, checked against the live tree when it is committed.

Theory. The first time a transaction looks at a node, it remembers the version that it saw (or that there was none);
every later look gives the same version, or what the transaction made of it. At commit each remembered version must
still be the live one: then the transaction could just as well have run all at once, now, and its changes are applied.
If any differs, EAGAIN, and nothing happened. There is no snapshot at the start: a node that is looked at late is seen
with changes that others made meanwhile, and that is as good, because all that counts is that nothing which was seen has
changed by the time of the commit.

To write a node is to look at it first. To make or remove a node is to look at its parent and to change it, since the
parent names its children; to find that a node is missing, or that it is not allowed, is to look at the nearest
ancestor. So, with T inside, O outside:

    T reads A, O writes A, T commits           A's version differs                     EAGAIN
    T reads A, O writes B, T commits           A is the same, B was not looked at      OK
    T writes A, O writes A, T commits          T looked at A to write it               EAGAIN
    T makes D/x, O makes D/y, T commits        both changed D's list of children       EAGAIN
    T lists D, O writes D/x, T commits         D's list is the same                    OK
    T finds C missing, O makes its sibling     T looked at the parent                  EAGAIN

and step by step, with g for generations and G for the store's count of them:

    G = 7, g(A) = 3, g(B) = 5
    T1 starts, T2 starts                       G = 9
    T1 reads A, T2 reads B                     T1 remembers 3 of A, T2 remembers 5 of B
    T1 writes B, T2 writes A                   T1 remembers 5 of B, T2 remembers 3 of A; G = 11
    T1 commits: g(A) = 3, g(B) = 5: OK         g(B) = 12
    T2 commits: g(B) = 12, not 5: EAGAIN       A stays as it was: T2's write is forgotten

Events are sent at commit only, once per node that changed, in the order of first look; a node that was made and removed
inside sends none. A node that went with the subtree it was in concerns its own watches only, as outside a transaction.
"""

from typing import Protocol

from xenblk.abi import DOM0, Domid
from xenblk.xenstore.domain import Domain, Quotas
from xenblk.xenstore.store import Node, Perm, View, make_node, refuse


class Live(View, Protocol):
    """The live tree, as a transaction needs it."""

    quotas: Quotas

    def next_generation(self) -> int:
        """A number that no version of a node has yet."""

    def birth_of(self, domid: Domid) -> int:
        """What tells a domain from another of the same number; 0 for one that does not exist."""


class Transaction:
    """One transaction's view. `commit` applies it to the view that it was started on, or changes nothing."""

    def __init__(self, live: Live, domain: Domain) -> None:
        self._live = live
        self._domain = domain
        self._limited = not domain.privileged
        self._seen: dict[str, Node | None] = {}
        self._made: dict[str, Node | None] = {}
        self._exact: dict[str, bool] = {}
        self._nodes: dict[Domid, int] = {}
        self._creates = False
        self._spoiled = False
        self._memory_bytes = 0
        live.next_generation()

    def get(self, path: str) -> Node | None:
        """See View; ENOSPC if the caller looked at too many nodes."""
        if path in self._made:
            return self._made[path]
        if path in self._seen:
            return self._seen[path]
        if self._limited and len(self._seen) >= self._live.quotas.transaction_nodes:
            self._spoiled = True
            raise refuse("ENOSPC", "a transaction's nodes")
        node = self._seen[path] = self._live.get(path)
        if self._limited and node is not None:
            self._account(len(path) + node.size_bytes)
        return node

    def put(self, path: str, node: Node) -> None:
        """See View."""
        before = self.get(path)
        self._made[path] = node
        if before is None or before.perms is not node.perms:
            self._count(before, -1)
            self._count(node, 1)
        if self._limited:
            self._account(node.size_bytes - (before.size_bytes if before is not None else -len(path)))

    def drop(self, path: str) -> None:
        """See View."""
        before = self.get(path)
        self._made[path] = None
        self._count(before, -1)
        if self._limited and before is not None:
            self._account(-len(path) - before.size_bytes)

    def _count(self, node: Node | None, change: int) -> None:
        if node is not None:
            self._nodes[node.owner.domid] = self._nodes.get(node.owner.domid, 0) + change

    def _account(self, nr_bytes: int) -> None:
        self._memory_bytes += nr_bytes
        self._domain.memory_bytes += nr_bytes

    def changed(
        self, path: str, node: Node | None, *, old_perms: tuple[Perm, ...] | None = None, exact: bool = False
    ) -> None:
        """See View; events wait for the commit."""
        self._exact[path] = exact and self._exact.get(path, True)

    def creating(self, domid: Domid) -> int:
        """See View: of the live tree. What is made and removed inside is counted at the commit."""
        self._creates = True
        return self._live.creating(domid)

    def spoil(self) -> None:
        """See View: the commit will be refused."""
        self._spoiled = True

    def conflicts(self) -> bool:
        """Whether anything that was looked at has changed."""
        for path, seen in self._seen.items():
            live = self._live.get(path)
            if live is not seen and _version(live) != _version(seen):
                return True
        return False

    def commit(self) -> bool:
        """Apply everything at once; False, and nothing, if there is a conflict.

        XenstoreError ENOMEM if something inside failed half way, or if nodes were given to a domain that is gone since;
        ENOSPC if a guest would own too many nodes.
        """
        if self._spoiled:
            raise refuse("ENOMEM", "a transaction in which something failed")
        if self._nodes:
            self._check_owners()
        if self.conflicts():
            return False
        for path in self._seen:
            if path in self._made:
                self._apply(path)
        return True

    def _check_owners(self) -> None:
        for domid, change in self._nodes.items():
            if self._live.birth_of(domid) == 0:
                raise refuse("ENOMEM", f"domain {domid} is gone")
            nr_nodes = self._live.creating(domid) + change
            if self._creates and domid != DOM0 and nr_nodes >= self._live.quotas.nodes:
                raise refuse("ENOSPC", f"{nr_nodes} nodes of domain {domid}")

    def _apply(self, path: str) -> None:
        """Each node and its event, before the next node: permissions are asked of what is there by then."""
        before, after = self._seen[path], self._made[path]
        if after is not None:
            self._live.put(path, make_node(after.value, after.perms, after.children, self._live.next_generation()))
        elif before is not None:
            self._live.drop(path)
        if path in self._exact:
            old_perms = None if before is None else before.perms
            self._live.changed(path, None, old_perms=old_perms, exact=self._exact[path])

    def discard(self) -> None:
        """Give back what the private copies count for; the last thing to do with a transaction, however it ended."""
        if self._limited:
            self._account(-self._memory_bytes)


def _version(node: Node | None) -> int:
    return -1 if node is None else node.generation
