"""What a node is, who may do what with it, and how paths, permissions and numbers are written.

Nodes are immutable: to change a node is to put another in its place. A transaction (transaction.py) therefore copies
nothing but references, and only those of the nodes that it touches; two versions of a node are the same exactly if
their generations are.

Source: docs/misc/xenstore.txt; behaviour of xenstored 4.17.
"""

import functools
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from xenblk.abi import DOM0, Domid
from xenblk.errors import XenstoreError
from xenblk.xenstore.domain import Domain

DOM0_PATH_CHARS_MAX: Final = 3072
"""Of a path that domain 0 gives (XENSTORE_ABS_PATH_MAX); what guests may have is a quota."""

SPECIAL: Final = ("@introduceDomain", "@releaseDomain")
"""Nodes outside the tree, without value or children: their permissions say who hears of domains."""

NODE_HEADER_BYTES: Final = 24
PERM_BYTES: Final = 8

_PATH: Final = re.compile(r"/|(/[A-Za-z0-9_@-]+)+")
_HOME: Final = re.compile(r"/local/domain/[0-9]{1,5}/")
_PERM: Final = re.compile(r"([nrwb])([0-9]{1,5})")
_NUMBER: Final = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")


class Perm(NamedTuple):
    """One entry of a node's permissions. `birth` tells this domain from a later one of the same number; 0 is void."""

    letter: str
    domid: Domid
    birth: int = 0

    def __str__(self) -> str:
        return f"{self.letter}{self.domid}"


class Node(NamedTuple):
    """A node: its value, its permissions (owner first), its children's names, each with a NUL, in order of creation."""

    value: bytes
    perms: tuple[Perm, ...]
    children: bytes
    generation: int

    @property
    def size_bytes(self) -> int:
        """What the node counts for in quotas: the size of its record in the C daemon, without its path."""
        return NODE_HEADER_BYTES + PERM_BYTES * len(self.perms) + len(self.value) + len(self.children)

    @property
    def names(self) -> list[str]:
        """The children's names."""
        return self.children.decode("ascii").split("\0")[:-1]

    @property
    def owner(self) -> Perm:
        """Whom the node belongs to; the letter is what everybody else may do."""
        return self.perms[0]


def make_node(value: bytes, perms: tuple[Perm, ...], children: bytes, generation: int) -> Node:
    """A node, in half of the time that its class takes."""
    return _new_node(Node, (value, perms, children, generation))


_new_node: Final = tuple.__new__


class View(Protocol):
    """Nodes by path, as one caller sees them: the live tree, or a transaction's."""

    def get(self, path: str) -> Node | None:
        """The node, None if there is none.

        A transaction sees each node as it was when it first looked. Where others change the tree meanwhile, it may see
        a node without its parent, or a directory without a child that it names; then it cannot be committed any more.
        """

    def put(self, path: str, node: Node) -> None:
        """Make or replace a node."""

    def drop(self, path: str) -> None:
        """Remove a node."""

    def changed(
        self, path: str, node: Node | None, *, old_perms: tuple[Perm, ...] | None = None, exact: bool = False
    ) -> None:
        """An operation changed `path`; `exact` if it went with the subtree it was in, which has a change of its own.

        `node` is what was written or removed, None for what is there now; `old_perms` if these were changed.
        """

    def creating(self, domid: Domid) -> int:
        """A guest is about to make a node: how many it owns already."""

    def spoil(self) -> None:
        """Something failed half way; a transaction can then only be given up."""


def may(domain: Domain, right: str, node: Node) -> bool:
    """Whether the node's permissions give this domain `r` or `w`. Void entries count for nobody."""
    return domain.privileged or permits(domain, right, node.perms)


def permits(domain: Domain, right: str, perms: tuple[Perm, ...]) -> bool:
    """What a list of permissions says of a domain that is not privileged."""
    if domain.is_one_of(perms[0]):
        return True
    for perm in perms[1:]:
        if domain.is_one_of(perm):
            return perm.letter in (right, "b")
    return perms[0].letter in (right, "b")


def owns(domain: Domain, node: Node) -> bool:
    """Whether the domain may change the node's permissions."""
    return domain.privileged or domain.is_one_of(node.owner)


def refuse(name: str, what: str) -> XenstoreError:
    """An error of the protocol."""
    return XenstoreError(name, what)


@functools.lru_cache(maxsize=1 << 12)
def canonical_path(text: bytes, domid: Domid, guest_chars_max: int) -> str:
    """An absolute path of what a domain wrote; EINVAL for what is none. Names with an @ in front are no nodes.

    A guest's path is counted without /local/domain/N/ if it begins like that.
    """
    path = absolute(text.decode("latin-1"), domid)
    if not _PATH.fullmatch(path) or (
        len(path) > DOM0_PATH_CHARS_MAX if domid == DOM0 else _chars_at_home(path) > guest_chars_max
    ):
        raise refuse("EINVAL", f"path {text[:80]!r}")
    return path


def absolute(text: str, domid: Domid) -> str:
    """A path with its beginning; it need not be a good one."""
    return text if text.startswith(("/", "@")) else f"/local/domain/{domid}/{text}"


def _chars_at_home(path: str) -> int:
    home = _HOME.match(path)
    return len(path) - (home.end() if home else 0)


def parent_of(path: str) -> str:
    """The path of a node's parent; the root is its own."""
    return path.rpartition("/")[0] or "/"


def child_of(path: str, name: str) -> str:
    """The path of a node's child."""
    return f"/{name}" if path == "/" else f"{path}/{name}"


@functools.lru_cache(maxsize=1 << 12)
def ancestors_of(path: str) -> tuple[str, ...]:
    """The path itself and all above it, up to the root."""
    found = [path]
    while path != "/":
        path = parent_of(path)
        found.append(path)
    return tuple(found)


def parse_perm(text: str, birth_of: Callable[[Domid], int]) -> Perm:
    """An entry from its text, such as n0 or r12; EINVAL otherwise."""
    match = _PERM.fullmatch(text)
    if match is None or int(match[2]) > 0xFFFF:
        raise refuse("EINVAL", f"permission {text[:20]!r}")
    domid = Domid(int(match[2]))
    return Perm(match[1], domid, birth_of(domid))


def parse_number(text: bytes) -> int:
    """A number as C's atoi reads it, then as an unsigned one: what is none is 0, and what follows does not matter."""
    match = _NUMBER.match(text)
    if match is None:
        return 0
    # strtol stays within 64 bits, and the int that is made of it keeps the low 32.
    return max(-(1 << 63), min((1 << 63) - 1, int(match[1][:40]))) & 0xFFFFFFFF
