"""The live tree of nodes: a View that operations outside a transaction work on, and what each domain owns in it.

All nodes lie by path in one dictionary. Everything a change touches is then one lookup away, whatever the tree's depth;
and since nodes are immutable, a transaction can keep what it saw for nothing.
"""

import itertools
from collections.abc import Iterable

from xenblk.abi import DOM0, Domid
from xenblk.xenstore.domain import Domain, DomainTable, Quotas
from xenblk.xenstore.operations import Operations
from xenblk.xenstore.store import SPECIAL, Node, Perm, ancestors_of, child_of, may, owns, parent_of, permits, refuse
from xenblk.xenstore.watch import WatchTable, fire


class Tree:
    """The live nodes. Changes are told to `watches`, and count for the domain that owns the node."""

    def __init__(self, domains: DomainTable, quotas: Quotas) -> None:
        self.quotas = quotas
        self.watches = WatchTable()
        self._domains = domains
        self.next_generation = itertools.count(1).__next__
        """Gives a number that no version of a node has yet."""
        self._nodes: dict[str, Node] = {}
        self.operations = Operations(quotas, self.next_generation)
        perms = (Perm("n", DOM0, domains.dom0.birth),)
        for path in SPECIAL:
            self._nodes[path] = Node(b"", perms, b"", 0)
        for path, children in (("/", b"tool\0"), ("/tool", b"xenstored\0"), ("/tool/xenstored", b"")):
            self.put(path, Node(b"", perms, children, self.next_generation()))

    def birth_of(self, domid: Domid) -> int:
        """What tells a domain from another of the same number; 0 for one that does not exist."""
        return self._domains.birth_of(domid)

    def get(self, path: str) -> Node | None:
        """See View."""
        return self._nodes.get(path)

    def put(self, path: str, node: Node) -> None:
        """See View."""
        before = self._nodes.get(path)
        self._nodes[path] = node
        if before is not None and before.perms is node.perms:
            change = len(node.value) + len(node.children) - len(before.value) - len(before.children)
            if change:
                self._owner(node).memory_bytes += change
        else:
            if before is not None:
                self._account(path, before, -1)
            self._account(path, node, 1)

    def _account(self, path: str, node: Node, sign: int) -> None:
        owner = self._owner(node)
        owner.memory_bytes += sign * (len(path) + node.size_bytes)
        if sign > 0:
            owner.owned.add(path)
        else:
            owner.owned.discard(path)

    def _owner(self, node: Node) -> Domain:
        """Whom a node counts for; what was given to a domain after it died counts for domain 0."""
        domain = self._domains.get(node.owner.domid)
        return domain if domain is not None and domain.birth == node.owner.birth else self._domains.dom0

    def drop(self, path: str) -> None:
        """See View."""
        self._account(path, self._nodes.pop(path), -1)

    def changed(
        self, path: str, node: Node | None, *, old_perms: tuple[Perm, ...] | None = None, exact: bool = False
    ) -> None:
        """See View."""
        watches = self.watches.concerned(path, exact=exact)
        if not watches:
            return

        def may_know(domain: Domain) -> bool:
            if old_perms is not None and (domain.privileged or permits(domain, "r", old_perms)):
                return True
            here = node if node is not None else self._nodes.get(path)
            if here is None or may(domain, "r", here):
                return here is not None
            parent = self._nodes.get(parent_of(path))
            return parent is not None and may(domain, "r", parent)

        fire(watches, path, may_know)

    def creating(self, domid: Domid) -> int:
        """See View."""
        domain = self._domains.get(domid)
        return 0 if domain is None else len(domain.owned)

    def spoil(self) -> None:
        """See View: outside a transaction there is nothing to give up."""

    def tell_of_domains(self, name: str) -> None:
        """Special nodes stand alone: nobody hears of them who may read the root, or watches that."""
        fire(self.watches.concerned(name, exact=True), name, lambda domain: may(domain, "r", self._nodes[name]))

    def special_perms(self, domain: Domain, name: str) -> tuple[Perm, ...]:
        """Who hears of domains: EACCES for who does not. The same in every transaction."""
        if not may(domain, "r", self._nodes[name]):
            raise refuse("EACCES", name)
        return self._nodes[name].perms

    def set_special_perms(self, domain: Domain, name: str, perms: tuple[Perm, ...]) -> None:
        """Say who hears of domains: ENOENT for a name that means nothing, EACCES for who does not own it."""
        if name not in SPECIAL:
            raise refuse("ENOENT", name)
        if not owns(domain, self._nodes[name]):
            raise refuse("EACCES", name)
        self._nodes[name] = self._nodes[name]._replace(perms=perms)

    def check(self) -> list[str]:
        """What is wrong with the tree and the accounts, in words; nothing, or there is a bug."""
        faults: list[str] = []
        reached = {*SPECIAL, "/"}
        todo = ["/"]
        while todo:
            path = todo.pop()
            for name in self._nodes[path].names:
                below = child_of(path, name)
                if below in reached or below not in self._nodes:
                    faults.append(f"{below} is named twice" if below in reached else f"node {below} not found")
                else:
                    reached.add(below)
                    todo.append(below)
        faults += [f"{path} is orphaned" for path in self._nodes.keys() - reached]
        for domain in self._domains:
            owned = {path for path, node in self._nodes.items() if self._owner(node) is domain and path not in SPECIAL}
            if owned != domain.owned:
                faults.append(f"domain {domain.domid} owns {len(owned)} nodes, not {len(domain.owned)}")
        return faults

    # Domains that are gone

    def remove_owned(self, domain: Domain) -> None:
        """Remove what a domain owns, with all below it. The root and special nodes stay, as domain 0's."""
        for path in self._tops(domain.owned):
            if path in self._nodes:
                self.operations.remove(self, path)
        for path in ("/", *SPECIAL):
            node = self._nodes[path]
            if node.owner.birth == domain.birth:
                self._give_to_dom0(path, node)

    def _give_to_dom0(self, path: str, node: Node) -> None:
        owner = Perm(node.owner.letter, DOM0, self._domains.dom0.birth)
        given = node._replace(perms=(owner, *node.perms[1:]))
        if path in SPECIAL:
            self._nodes[path] = given
        else:
            self.put(path, given._replace(generation=self.next_generation()))

    def _tops(self, paths: Iterable[str]) -> list[str]:
        """Those with none of the others above them, in the order in which a walk through the tree meets them."""
        owned = {*paths} - {"/"}
        tops = [path for path in owned if not owned.intersection(ancestors_of(path)[1:])]
        return sorted(tops, key=self._place)

    def _place(self, path: str) -> tuple[int, ...]:
        place: list[int] = []
        while path != "/":
            above, name = parent_of(path), path.rpartition("/")[2]
            place.append(self._nodes[above].names.index(name))
            path = above
        return tuple(reversed(place))
