"""What can be done with nodes, written once over a `View`: the live tree, or a transaction's.

Who is limited by quotas is a guest; domain 0 is not. Names of errors are those of the protocol; which one, in which
order things are checked, and in which order nodes are looked at (which decides what a transaction conflicts with and
the order of its events) follow the C daemon.

Source: docs/misc/xenstore.txt; behaviour of xenstored 4.17.
"""

from collections.abc import Callable, Iterator

from xenblk.errors import XenstoreError
from xenblk.xenstore.domain import Domain, Quotas
from xenblk.xenstore.store import Node, Perm, View, child_of, make_node, may, owns, parent_of, refuse


class Operations:
    """Operations on nodes. `next_generation` numbers versions of nodes."""

    def __init__(self, quotas: Quotas, next_generation: Callable[[], int]) -> None:
        self._quotas = quotas
        self._next_generation = next_generation

    def read(self, view: View, domain: Domain, path: str) -> Node:
        """A node that the domain may read: ENOENT, or EACCES."""
        node = view.get(path)
        if node is None or not may(domain, "r", node):
            raise refuse(self._reason(view, domain, path, "r", node), path)
        return node

    def _reason(self, view: View, domain: Domain, path: str, right: str, node: Node | None) -> str:
        """ENOENT, but EACCES where the domain has not that right on the nearest ancestor: it learns nothing there."""
        _, ancestor = self._nearest(view, path)
        return "ENOENT" if node is None and may(domain, right, ancestor) else "EACCES"

    def _nearest(self, view: View, path: str) -> tuple[str, Node]:
        while (node := view.get(parent_of(path))) is None:
            path = parent_of(path)
        return parent_of(path), node

    def write(self, view: View, domain: Domain, path: str, value: bytes) -> None:
        """Set a node's value, making it and its parents if need be."""
        node = view.get(path)
        if node is not None and may(domain, "w", node):
            node = self._put(view, domain, path, make_node(value, node.perms, node.children, self._next_generation()))
        else:
            self._allow_creation(view, domain, path, node)
            node = self._create(view, domain, path, value)
        view.changed(path, node)

    def mkdir(self, view: View, domain: Domain, path: str) -> None:
        """Make sure that a node exists; nothing happens to one that does."""
        node = view.get(path)
        if node is None or not may(domain, "w", node):
            self._allow_creation(view, domain, path, node)
            view.changed(path, self._create(view, domain, path, b""))

    def _allow_creation(self, view: View, domain: Domain, path: str, node: Node | None) -> None:
        if (reason := self._reason(view, domain, path, "w", node)) != "ENOENT":
            raise refuse(reason, path)

    def _put(self, view: View, domain: Domain, path: str, node: Node) -> Node:
        """Put a node, as far as the quota on its size and on its owner's memory allows: ENOSPC, EIO."""
        if not domain.privileged:
            if node.size_bytes >= self._quotas.node_size:
                view.spoil()
                raise refuse("ENOSPC", f"{path} with {node.size_bytes} bytes")
            before = view.get(path)
            growth_bytes = node.size_bytes - (before.size_bytes if before is not None else -len(path))
            if domain.memory_bytes + growth_bytes >= self._quotas.memory:
                view.spoil()
                raise refuse("EIO", f"{domain.memory_bytes} bytes of domain {domain.domid}")
        view.put(path, node)
        return node

    def _create(self, view: View, domain: Domain, path: str, value: bytes) -> Node:
        """Make a node and what is missing above it, all or nothing: from below to the ancestor that exists."""
        top, ancestor = self._nearest(view, path)
        perms = ancestor.perms
        if not domain.privileged:
            perms = (Perm(perms[0].letter, domain.domid, domain.birth), *perms[1:])
        at, children, made = path, b"", None
        done: list[str] = []
        try:
            while at != top:
                self._check_count(view, domain)
                node = Node(b"" if done else value, perms, children, self._next_generation())
                self._put(view, domain, at, node)
                done.append(at)
                made = made or node
                at, children = parent_of(at), at.rpartition("/")[2].encode() + b"\0"
            grown = Node(ancestor.value, ancestor.perms, ancestor.children + children, self._next_generation())
            self._put(view, domain, top, grown)
        except XenstoreError:
            for at in done:
                view.drop(at)
                view.spoil()
            raise
        assert made is not None
        return made

    def _check_count(self, view: View, domain: Domain) -> None:
        if not domain.privileged and view.creating(domain.domid) >= self._quotas.nodes:
            raise refuse("ENOSPC", f"{self._quotas.nodes} nodes of domain {domain.domid}")

    def rm(self, view: View, domain: Domain, path: str) -> None:
        """Remove a node with all below it; nothing happens where only the node is missing."""
        node = view.get(path)
        if node is None or not may(domain, "w", node):
            reason = self._reason(view, domain, path, "w", node)
            if reason != "ENOENT" or view.get(parent_of(path)) is None:
                raise refuse(reason, path)
            return
        if path == "/":
            raise refuse("EINVAL", "rm of /")
        self.remove(view, path)

    def remove(self, view: View, path: str) -> None:
        """Remove a subtree, whoever asks, children before parents.

        In a transaction that is bound to fail (see View.get), EINVAL without a parent, EIO without a child.
        """
        if view.get(parent_of(path)) is None:
            raise refuse("EINVAL", f"{path} has no parent")
        for at, node in self._downwards(view, path):
            self._next_generation()
            view.drop(at)
            view.changed(at, node, exact=at != path)
            self._unlist(view, at)

    def _downwards(self, view: View, path: str) -> Iterator[tuple[str, Node]]:
        """All nodes of a subtree, children before parents, without recursion: trees may be a thousand levels deep."""
        inside = [(path, iter(_existing(view, path).names))]
        while inside:
            at, names = inside[-1]
            name = next(names, None)
            if name is None:
                inside.pop()
                yield at, _existing(view, at)
            else:
                below = child_of(at, name)
                inside.append((below, iter(_existing(view, below).names)))

    def _unlist(self, view: View, path: str) -> None:
        above, name = parent_of(path), path.rpartition("/")[2].encode() + b"\0"
        parent = _existing(view, above)
        found = (b"\0" + parent.children).find(b"\0" + name)
        if found < 0:
            raise refuse("EIO", f"{path} is not among its parent's children")
        children = parent.children[:found] + parent.children[found + len(name) :]
        view.put(above, Node(parent.value, parent.perms, children, self._next_generation()))

    def set_perms(self, view: View, domain: Domain, path: str, perms: tuple[Perm, ...]) -> None:
        """Set a node's permissions; only domain 0 may give it to another owner."""
        node = view.get(path)
        if node is None or not owns(domain, node):
            raise refuse(self._reason(view, domain, path, "w", node), path)
        if not domain.privileged and perms[0].domid != node.owner.domid:
            raise refuse("EPERM", path)
        node, old_perms = Node(node.value, perms, node.children, self._next_generation()), node.perms
        self._put(view, domain, path, node)
        view.changed(path, node, old_perms=old_perms)


def _existing(view: View, path: str) -> Node:
    """A node that its parent or child knows of; EIO whatever keeps it away, be it a transaction's quota."""
    try:
        node = view.get(path)
    except XenstoreError:
        node = None
    if node is None:
        raise refuse("EIO", f"{path} is named by its parent and missing")
    return node
