"""Domains as xenstore knows them: who they are, whether they were introduced, and what they use of it.

A domain is known from the moment that somebody names it in permissions or introduces it, and has a birth: a number that
tells it from a later domain of the same number, so that the dead leave nothing to their namesakes.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from xenblk.abi import DOM0, Domid
from xenblk.errors import XenstoreError

if TYPE_CHECKING:
    from xenblk.xenstore.session import Session

DOMID_SELF: Final = 0x7FF0


class Entry(Protocol):
    """Whoever is named with a domain number and a birth; a birth of 0 is nobody's."""

    @property
    def domid(self) -> Domid: ...

    @property
    def birth(self) -> int: ...


@dataclasses.dataclass(eq=False, slots=True)
class Domain:
    """One domain, and what counts against its quotas. `target` is another whose rights it has as well (SET_TARGET)."""

    domid: Domid
    birth: int
    introduced: bool = False
    shut_down: bool = False
    target: "Domain | None" = None
    sessions: "list[Session]" = dataclasses.field(default_factory=list)
    owned: set[str] = dataclasses.field(default_factory=set)
    memory_bytes: int = 0
    nr_watches: int = 0
    nr_transactions: int = 0
    nr_outstanding: int = 0
    over_soft_quota: bool = False
    privileged: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.privileged = self.domid == DOM0

    def is_one_of(self, entry: Entry) -> bool:
        """Whether an entry means this domain or its target."""
        if entry.birth == self.birth and entry.domid == self.domid:
            return True
        target = self.target
        return target is not None and entry.birth == target.birth and entry.domid == target.domid

    def resume(self) -> None:
        """Something that kept the domain's requests waiting is over."""
        for session in self.sessions:
            session.resume()


@dataclasses.dataclass(slots=True)
class Quotas:
    """What a guest may use, as `xenstore-control quota` names it; domain 0 is not limited. Sizes are in bytes."""

    nodes: int = 1000
    watches: int = 128
    transactions: int = 10
    outstanding: int = 20
    transaction_nodes: int = 1024
    memory: int = (2 << 20) + (512 << 10)
    memory_soft: int = 2 << 20
    node_size: int = 2048
    path_max: int = 2048
    permissions: int = 5


class Hypervisor(Protocol):
    """What a xenstore asks of the Xen that it runs on."""

    def exists(self, domid: Domid) -> bool:
        """Whether there is such a domain, whether it was introduced or not."""

    def connect(self, domid: Domid, port: int) -> None:
        """Serve a domain that is being introduced, or anew if it was before; XenstoreError EINVAL if it is none."""

    def disconnect(self, domid: Domid) -> None:
        """Serve a domain no more, which is being released."""


class NoHypervisor:
    """There are no domains but those that the embedding host introduces."""

    def exists(self, domid: Domid) -> bool:
        """None."""
        return False

    def connect(self, domid: Domid, port: int) -> None:
        """None."""
        raise XenstoreError("EINVAL", f"domain {domid}")

    def disconnect(self, domid: Domid) -> None:
        """None."""


class DomainTable:
    """The domains that were named; iterates over them. Domain 0 is always there."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self._births = itertools.count(1)
        self._domains: dict[int, Domain] = {}
        self.dom0 = self.know(DOM0)
        self.dom0.introduced = True

    def __iter__(self) -> Iterator[Domain]:
        return iter(list(self._domains.values()))

    def get(self, number: int) -> Domain | None:
        """A domain that was named, None if it was not."""
        return self._domains.get(number)

    def introduced(self, number: int) -> Domain | None:
        """A domain that was introduced, None if it was not."""
        domain = self._domains.get(number)
        return domain if domain is not None and domain.introduced else None

    def know(self, domid: Domid) -> Domain:
        """A domain that exists."""
        if domid not in self._domains:
            self._domains[domid] = Domain(domid, next(self._births))
        return self._domains[domid]

    def birth_of(self, domid: Domid) -> int:
        """What tells a domain from another of the same number; 0 for one that does not exist."""
        if domid not in self._domains and not self.hypervisor.exists(domid):
            return 0
        return self.know(domid).birth

    def forget(self, domain: Domain) -> None:
        """A domain is gone: whatever still names it is void."""
        del self._domains[domain.domid]
