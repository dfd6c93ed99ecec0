"""The xenstore daemon without its sockets: one live tree, its sessions, its watches, the domains it knows.

An embedding host introduces and releases domains, and acts as domain 0 through `read` to `set_perms` below.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.errors import XenstoreError
from xenblk.xenstore.session import Session
from xenblk.xenstore.store import SPECIAL, Caller, Node, Operations, Perm, canonical_path, parent_of, parse_perm
from xenblk.xenstore.watch import WatchTable

DOMID_SELF: Final = 0x7FF0
_DOM0: Final = Caller(DOM0, 1)


class Xenstored:
    """The live store; as a View it is what operations outside a transaction work on. One thread at a time."""

    def __init__(self) -> None:
        self.watches = WatchTable()
        self._generations = itertools.count(1)
        self.operations = Operations(lambda: next(self._generations))
        self._births: dict[Domid, int] = {DOM0: 1}
        self._next_birth = itertools.count(2)
        self._sessions: list[Session] = []
        root = Perm("n", DOM0, 1)
        self._nodes = {path: Node(b"", (root,), (), next(self._generations)) for path in ("/", *SPECIAL)}
        self.mkdir("/tool/xenstored")

    # Sessions and domains

    def connect(self, domid: Domid, on_output: Callable[[], None]) -> Session:
        """A new client of a domain; `on_output` is called when its session has something to send."""
        session = Session(self, Caller(domid, self.birth_of(domid)), on_output)
        self._sessions.append(session)
        return session

    def disconnected(self, session: Session) -> None:
        """A session ended."""
        self.watches.remove_all(session)
        if session in self._sessions:
            self._sessions.remove(session)

    def birth_of(self, domid: Domid) -> int:
        """What tells a domain from another of the same number; 0 for one that does not exist."""
        return self._births.get(domid, 0)

    def is_introduced(self, domid: int) -> bool:
        """Whether a domain is known."""
        return domid in self._births or domid == DOMID_SELF

    def introduce(self, domid: Domid) -> None:
        """A domain was made; nothing happens if it is known already."""
        if domid not in self._births:
            self._births[domid] = next(self._next_birth)
            self.changed("@introduceDomain", None)

    def release(self, domid: Domid) -> None:
        """A domain is no more: its sessions end, its nodes go, its permissions are void, whoever watches is told.

        XenstoreError EINVAL for domain 0, ENOENT for one that is not known.
        """
        if domid == DOM0 or domid not in self._births:
            raise XenstoreError("EINVAL" if domid == DOM0 else "ENOENT", f"release {domid}")
        birth = self._births.pop(domid)
        for session in [s for s in self._sessions if s.caller.domid == domid]:
            session.close()
        owned = [
            path
            for path, node in self._nodes.items()
            if (node.perms[0].domid, node.perms[0].birth) == (domid, birth) and path not in ("/", *SPECIAL)
        ]
        for path in sorted(owned):
            if path in self._nodes:
                self.rm(path)
        self.changed("@releaseDomain", None)

    # View

    def get(self, path: str) -> Node | None:
        """See View."""
        return self._nodes.get(path)

    def put(self, path: str, node: Node) -> None:
        """See View."""
        self._nodes[path] = node

    def drop(self, path: str) -> None:
        """See View."""
        del self._nodes[path]

    def changed(self, path: str, before: Node | None, *, exact: bool = False) -> None:
        """See View."""
        special = path in SPECIAL  # it stands alone: nobody hears of it who may read the root, or watches that
        parent = None if special else self.get(parent_of(path))
        self.watches.changed(path, (before, self.get(path), parent), exact=exact or special)

    # As domain 0

    def read(self, path: str) -> bytes:
        """A node's value; XenstoreError if there is none."""
        return self.operations.read(self, _DOM0, canonical_path(path, DOM0)).value

    def directory(self, path: str) -> list[str]:
        """Names of a node's children."""
        return [*self.operations.read(self, _DOM0, canonical_path(path, DOM0)).children]

    def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        return canonical_path(path, DOM0) in self._nodes

    def write(self, path: str, value: bytes) -> None:
        """Write a node."""
        self.operations.write(self, _DOM0, canonical_path(path, DOM0), value)

    def mkdir(self, path: str) -> None:
        """Make sure that a node exists."""
        self.operations.mkdir(self, _DOM0, canonical_path(path, DOM0))

    def rm(self, path: str) -> None:
        """Remove a node; nothing happens if there is none."""
        try:
            self.operations.rm(self, _DOM0, canonical_path(path, DOM0))
        except XenstoreError as e:
            if e.name != "ENOENT":
                raise

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """Set a node's permissions."""
        parsed = tuple(parse_perm(text, self.birth_of) for text in perms)
        self.operations.set_perms(self, _DOM0, canonical_path(path, DOM0), parsed)
