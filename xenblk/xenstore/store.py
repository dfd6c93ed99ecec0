"""The tree of nodes, what may be done with it and by whom.

Nodes are immutable and kept by path in one dictionary: to change a node is to put another in its place. A transaction
(transaction.py) therefore copies nothing but references, and only those of the nodes that it touches; two versions of
a node are the same exactly if their generations are.

The operations are written once, over a `View`: the live tree, or a transaction's. Names of errors are those of the
protocol; which one, and in which order things are checked, follows the C daemon.

Source: docs/misc/xenstore.txt; behaviour of xenstored 4.17.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from xenblk.abi import DOM0, Domid
from xenblk.errors import XenstoreError

PATH_CHARS_MAX: Final = 3072
SPECIAL: Final = ("@introduceDomain", "@releaseDomain")
"""Nodes outside the tree, without value or children: their permissions say who hears of domains."""

_PATH: Final = re.compile(r"/|(/[A-Za-z0-9_@-]+)+")
_PERM: Final = re.compile(r"([nrwb])([0-9]{1,5})")


@dataclasses.dataclass(frozen=True, slots=True)
class Perm:
    """One entry of a node's permissions. `birth` tells this domain from a later one of the same number; 0 is void."""

    letter: str
    domid: Domid
    birth: int = 0

    def __str__(self) -> str:
        return f"{self.letter}{self.domid}"


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node: its value, its permissions (owner first), its children's names in order of creation."""

    value: bytes
    perms: tuple[Perm, ...]
    children: tuple[str, ...]
    generation: int


class View(Protocol):
    """Nodes by path, as one caller sees them."""

    def get(self, path: str) -> Node | None:
        """The node, None if there is none.

        A transaction sees each node as it was when it first looked. Where others change the tree meanwhile, it may see
        a node without its parent, or a directory without a child that it names; then it cannot be committed any more.
        """

    def put(self, path: str, node: Node) -> None:
        """Make or replace a node."""

    def drop(self, path: str) -> None:
        """Remove a node."""

    def changed(self, path: str, before: Node | None, *, exact: bool = False) -> None:
        """An operation changed `path`; `exact` if it went with the subtree it was in, which has a change of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Domain 0 is privileged; a guest is known by its birth, too."""

    domid: Domid
    birth: int

    @property
    def privileged(self) -> bool:
        """Whether everything is allowed."""
        return self.domid == DOM0

    def may(self, right: str, node: Node) -> bool:
        """Whether the node's permissions give this caller `r` or `w`."""
        if self.owns(node):
            return True
        for perm in node.perms[1:]:
            if self._is(perm):
                return perm.letter in (right, "b")
        return node.perms[0].letter in (right, "b")

    def owns(self, node: Node) -> bool:
        """Whether the caller may change the node's permissions."""
        return self.privileged or self._is(node.perms[0])

    def _is(self, perm: Perm) -> bool:
        return perm.birth != 0 and (perm.domid, perm.birth) == (self.domid, self.birth)


def refuse(name: str, what: str) -> XenstoreError:
    """An error of the protocol."""
    return XenstoreError(name, what)


def canonical_path(text: str, domid: Domid) -> str:
    """An absolute path of what a domain wrote; EINVAL for what is none. Names with an @ in front are no nodes."""
    path = text if text.startswith(("/", "@")) else f"/local/domain/{domid}/{text}"
    if len(path) > PATH_CHARS_MAX or not _PATH.fullmatch(path):
        raise refuse("EINVAL", f"path {text[:80]!r}")
    return path


def parent_of(path: str) -> str:
    """The path of a node's parent; the root is its own."""
    return path.rpartition("/")[0] or "/"


def parse_perm(text: str, birth_of: Callable[[Domid], int]) -> Perm:
    """An entry from its text, such as n0 or r12; EINVAL otherwise."""
    match = _PERM.fullmatch(text)
    if match is None or int(match[2]) > 0xFFFF:
        raise refuse("EINVAL", f"permission {text[:20]!r}")
    domid = Domid(int(match[2]))
    return Perm(match[1], domid, birth_of(domid))


class Operations:
    """What can be done with nodes. `next_generation` numbers versions of nodes."""

    def __init__(self, next_generation: Callable[[], int]) -> None:
        self._next_generation = next_generation

    def read(self, view: View, caller: Caller, path: str) -> Node:
        """A node that the caller may read: ENOENT, or EACCES."""
        return self._existing(view, caller, path, "r")

    def _existing(self, view: View, caller: Caller, path: str, right: str) -> Node:
        node = view.get(path)
        if node is None:
            raise self._missing(view, caller, path, right)
        if not caller.may(right, node):
            raise refuse("EACCES", path)
        return node

    def _missing(self, view: View, caller: Caller, path: str, right: str) -> XenstoreError:
        """ENOENT, but EACCES where the caller has not that right on the nearest ancestor: it learns nothing there."""
        _, ancestor = self._nearest(view, path)
        return refuse("ENOENT" if caller.may(right, ancestor) else "EACCES", path)

    def _nearest(self, view: View, path: str) -> tuple[str, Node]:
        while (node := view.get(parent_of(path))) is None:
            path = parent_of(path)
        return parent_of(path), node

    def write(self, view: View, caller: Caller, path: str, value: bytes) -> None:
        """Set a node's value, making it and its parents if need be."""
        node = view.get(path)
        if node is None:
            self._create(view, caller, path, value)
        elif not caller.may("w", node):
            raise refuse("EACCES", path)
        else:
            self._replace(view, path, node, value=value)
        view.changed(path, node)

    def mkdir(self, view: View, caller: Caller, path: str) -> None:
        """Make sure that a node exists; nothing happens to one that does."""
        node = view.get(path)
        if node is None:
            self._create(view, caller, path, b"")
            view.changed(path, None)
        elif not caller.may("w", node):
            raise refuse("EACCES", path)

    def _create(self, view: View, caller: Caller, path: str, value: bytes) -> None:
        top, ancestor = self._nearest(view, path)
        if not caller.may("w", ancestor):
            raise refuse("EACCES", path)
        perms = ancestor.perms
        if not caller.privileged:
            perms = (Perm(perms[0].letter, caller.domid, caller.birth), *perms[1:])
        names = path[len(top) :].strip("/").split("/")
        self._replace(view, top, ancestor, children=(*ancestor.children, names[0]))
        at = "" if top == "/" else top
        for i, name in enumerate(names):
            at = f"{at}/{name}"
            last = i == len(names) - 1
            children = () if last else (names[i + 1],)
            view.put(at, Node(value if last else b"", perms, children, self._next_generation()))

    def _replace(
        self,
        view: View,
        path: str,
        node: Node,
        *,
        value: bytes | None = None,
        perms: tuple[Perm, ...] | None = None,
        children: tuple[str, ...] | None = None,
    ) -> None:
        view.put(
            path,
            Node(
                node.value if value is None else value,
                node.perms if perms is None else perms,
                node.children if children is None else children,
                self._next_generation(),
            ),
        )

    def rm(self, view: View, caller: Caller, path: str) -> None:
        """Remove a node with all below it; nothing happens where only the node is missing."""
        if path == "/":
            raise refuse("EINVAL", "rm of /")
        node = view.get(path)
        parent = view.get(parent_of(path))
        if node is None:
            if parent is None or not caller.may("w", parent):
                raise self._missing(view, caller, path, "w")
            return
        if not caller.may("w", node):
            raise refuse("EACCES", path)
        removed = list(self.below(view, path, node))
        # Without a parent this is a transaction that is bound to fail; see View.get.
        if parent is not None:
            name = path.rpartition("/")[2]
            self._replace(view, parent_of(path), parent, children=tuple(c for c in parent.children if c != name))
        for at, gone in removed:
            view.changed(at, gone, exact=True)
            view.drop(at)
        view.changed(path, node)
        view.drop(path)

    def below(self, view: View, path: str, node: Node) -> Iterator[tuple[str, Node]]:
        """All nodes below one, children before parents, without recursion: trees may be a thousand levels deep."""
        inside = [(path, node, iter(node.children))]
        while inside:
            at, current, names = inside[-1]
            name = next(names, None)
            if name is not None:
                child_path = f"/{name}" if at == "/" else f"{at}/{name}"
                child = view.get(child_path)
                # A name without a node is one in a transaction that is bound to fail; see View.get.
                if child is not None:
                    inside.append((child_path, child, iter(child.children)))
            else:
                inside.pop()
                if inside:
                    yield at, current

    def set_perms(self, view: View, caller: Caller, path: str, perms: tuple[Perm, ...]) -> None:
        """Set a node's permissions; only domain 0 may give it to another owner, and only to one that exists."""
        node = view.get(path)
        if node is None:
            raise self._missing(view, caller, path, "w")
        if not caller.owns(node):
            raise refuse("EACCES", path)
        if not caller.privileged and perms[0].domid != caller.domid:
            raise refuse("EPERM", path)
        if perms[0].birth == 0:
            raise refuse("ENOENT", f"the owner {perms[0].domid} of {path}")
        self._replace(view, path, node, perms=perms)
        view.changed(path, node)
