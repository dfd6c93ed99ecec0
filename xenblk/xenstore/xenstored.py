"""The xenstore daemon without its sockets and rings: a tree, the sessions of clients, and the domains' lives.

An embedding host introduces and releases domains, says which were shut down, and acts as domain 0 through `read` to
`set_perms` below. It calls `tick` when `due_s` has come, by the clock that it gives; without one, time stands still:
nothing expires, and nobody's credit grows.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from xenblk.abi import DOM0, DOMID_FIRST_RESERVED, Domid
from xenblk.errors import XenstoreError
from xenblk.xenstore.domain import DOMID_SELF, Domain, DomainTable, Hypervisor, NoHypervisor, Quotas
from xenblk.xenstore.limit import WriteLimit
from xenblk.xenstore.requests import MODIFYING
from xenblk.xenstore.session import Outstanding, Session
from xenblk.xenstore.store import canonical_path, parse_perm, refuse
from xenblk.xenstore.trace import Trace
from xenblk.xenstore.tree import Tree
from xenblk.xenstore.wire import Packet, XsMsgType

MEMORY_POLL_S: Final = 1.0
"""How often to see whether a guest that used up its memory has some again."""


class Xenstored:
    """A running store. One thread at a time."""

    def __init__(
        self,
        hypervisor: Hypervisor | None = None,
        *,
        trace: Trace | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.quotas = Quotas()
        self.domains = DomainTable(hypervisor or NoHypervisor())
        self.tree = Tree(self.domains, self.quotas)
        self.watches = self.tree.watches
        self.trace = trace or Trace()
        self.clock = clock
        self.nr_transactions = 0
        self.cause: Outstanding | None = None
        """The guest's request that is being served, which the events that it causes keep outstanding."""
        self.due_s: float | None = None
        """When to call `tick`, by the clock; None if there is nothing to wait for."""
        self._limit = WriteLimit(clock)
        self._numbers = itertools.count(1)

    # Sessions

    def connect(self, domid: Domid, on_change: Callable[[], None]) -> Session:
        """A new client of a domain that exists; `on_change` is described at Session."""
        session = Session(self, self.domains.know(domid), next(self._numbers), on_change)
        session.domain.sessions.append(session)
        self.trace.note(f"CREATE connection {session.number:#x}")
        return session

    def disconnected(self, session: Session) -> None:
        """A session ended."""
        session.domain.sessions.remove(session)
        self.trace.note(f"DESTROY connection {session.number:#x}")

    # Time, and who has to wait

    def due_at(self, when_s: float) -> None:
        """Something has to be done by then."""
        self.due_s = when_s if self.due_s is None else min(self.due_s, when_s)

    def tick(self) -> None:
        """Drop events that guests did not take for too long, and let those go on that had to wait."""
        if self.due_s is None or (now_s := self.clock()) < self.due_s:
            return
        self.due_s = None
        for domain in self.domains:
            for session in [] if domain.privileged else list(domain.sessions):
                if (next_s := session.expire(now_s)) is not None:
                    self.due_at(next_s)
            if (wait_s := self._limit.wait_s(domain.domid)) > 0:
                self.due_at(now_s + wait_s)
            domain.resume()

    def charge(self, domain: Domain, packet: Packet) -> None:
        """A guest's request was served; if it wrote, and somebody is in a transaction, it costs.

        The soft quota on memory limits nothing: the trace says when it is passed, either way.
        """
        wrote = packet.type in MODIFYING and packet.tx_id == 0
        if self.nr_transactions and (wrote or (packet.type, packet.payload) == (XsMsgType.TRANSACTION_END, b"T\0")):
            self._limit.charge(domain.domid)
            if (wait_s := self._limit.wait_s(domain.domid)) > 0:
                self.due_at(self.clock() + wait_s)
        over = domain.memory_bytes >= self.quotas.memory_soft
        if over != domain.over_soft_quota:
            domain.over_soft_quota = over
            says = "exceeds its soft memory quota" if over else "is below its soft memory quota again"
            self.trace.note(f"domain {domain.domid} {says}")

    def is_held_back(self, domain: Domain) -> bool:
        """Whether a guest's requests have to wait."""
        if domain.memory_bytes >= self.quotas.memory:
            # Whoever frees some of it, or allows more, does not know who waits for that.
            self.due_at(self.clock() + MEMORY_POLL_S)
            return True
        return domain.nr_outstanding >= self.quotas.outstanding or self._limit.wait_s(domain.domid) > 0

    # Domains

    def is_introduced(self, number: int) -> bool:
        """Whether a domain is served; DOMID_SELF always is."""
        return number == DOMID_SELF or self.domains.introduced(number) is not None

    def introduce_by_request(self, number: int, port: int) -> None:
        """What INTRODUCE does: connect the domain, or connect it anew."""
        if not DOM0 < number < DOMID_FIRST_RESERVED:
            raise refuse("EINVAL", f"introduce domain {number}")
        self.domains.hypervisor.connect(Domid(number), port)
        self.introduce(Domid(number))

    def introduce(self, domid: Domid) -> None:
        """A domain was made; nothing happens if it was introduced already."""
        domain = self.domains.know(domid)
        if not domain.introduced:
            domain.introduced = True
            self.tree.tell_of_domains("@introduceDomain")

    def shut_down(self, domid: Domid) -> None:
        """A domain shut down or crashed: whoever watches is told, once until it is resumed."""
        domain = self.domains.introduced(domid)
        if domain is not None and not domain.shut_down:
            domain.shut_down = True
            self.tree.tell_of_domains("@releaseDomain")

    def boot(self, domid: Domid) -> None:
        """A domain that was shut down runs again."""
        self.domains.know(domid).shut_down = False

    def release(self, domid: Domid) -> None:
        """A domain is no more: its sessions end, its nodes go, its permissions are void, whoever watches is told.

        XenstoreError EINVAL for domain 0, ENOENT for one that is not known.
        """
        domain = self.domains.get(domid)
        if domid == DOM0 or domain is None:
            raise refuse("EINVAL" if domid == DOM0 else "ENOENT", f"release {domid}")
        for session in list(domain.sessions):
            session.close()
        self.domains.hypervisor.disconnect(domid)
        self.tree.remove_owned(domain)
        self._limit.forget(domid)
        self.domains.forget(domain)
        if domain.introduced:
            self.tree.tell_of_domains("@releaseDomain")

    # As domain 0

    def _path(self, path: str) -> str:
        return canonical_path(path.encode("latin-1", "replace"), DOM0, self.quotas.path_max)

    def read(self, path: str) -> bytes:
        """A node's value; XenstoreError if there is none."""
        return self.tree.operations.read(self.tree, self.domains.dom0, self._path(path)).value

    def directory(self, path: str) -> list[str]:
        """Names of a node's children."""
        return self.tree.operations.read(self.tree, self.domains.dom0, self._path(path)).names

    def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        return self.tree.get(self._path(path)) is not None

    def write(self, path: str, value: bytes) -> None:
        """Write a node."""
        self.tree.operations.write(self.tree, self.domains.dom0, self._path(path), value)

    def mkdir(self, path: str) -> None:
        """Make sure that a node exists."""
        self.tree.operations.mkdir(self.tree, self.domains.dom0, self._path(path))

    def rm(self, path: str) -> None:
        """Remove a node; nothing happens if there is none."""
        try:
            self.tree.operations.rm(self.tree, self.domains.dom0, self._path(path))
        except XenstoreError as e:
            if e.name != "ENOENT":
                raise

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """Set a node's permissions."""
        parsed = tuple(parse_perm(text, self.domains.birth_of) for text in perms)
        self.tree.operations.set_perms(self.tree, self.domains.dom0, self._path(path), parsed)
