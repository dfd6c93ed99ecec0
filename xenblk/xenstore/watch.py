"""Watches: who is told of which change.

A change at P concerns each watch at P or above it. When a subtree is removed, watches inside it are told of their own
node, if it existed, children first; watches at or above its top are told of the top only. Each session hears of one
change in the order in which it registered. `@introduceDomain` and `@releaseDomain` are nodes outside the tree that have
nothing but permissions: who may read one hears of it.

Watches are kept by path, so that a change costs as much as the path has parts, however many watches there are.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Protocol

from xenblk.errors import XenstoreError
from xenblk.xenstore.domain import Domain
from xenblk.xenstore.store import ancestors_of


class Listener(Protocol):
    """A session, as far as watches go."""

    domain: Domain

    def send_event(self, path: str, token: bytes) -> None:
        """Queue an event."""


@dataclasses.dataclass(eq=False, slots=True)
class Watch:
    """One registration; `prefix_chars` is what to cut from paths for a watch that was given relatively."""

    listener: Listener
    path: str
    token: bytes
    prefix_chars: int
    order: int = 0

    @property
    def memory_bytes(self) -> int:
        """What the watch counts for in its domain's quota."""
        return len(self.path) + len(self.token)

    def fire(self, path: str) -> None:
        """Send an event for `path`."""
        self.listener.send_event(path[self.prefix_chars :] if self.prefix_chars else path, self.token)


class WatchTable:
    """All watches of a store."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._by_key: dict[Listener, dict[tuple[str, bytes], Watch]] = {}
        self._orders = itertools.count()

    def has(self, listener: Listener, path: str, token: bytes) -> bool:
        """Whether there is such a watch."""
        return (path, token) in self._by_key.get(listener, ())

    def add(self, watch: Watch) -> None:
        """Register a watch that there is not yet. The caller sends the first event."""
        watch.order = next(self._orders)
        self._by_key.setdefault(watch.listener, {})[watch.path, watch.token] = watch
        self._by_path.setdefault(watch.path, []).append(watch)
        watch.listener.domain.nr_watches += 1
        watch.listener.domain.memory_bytes += watch.memory_bytes

    def remove(self, listener: Listener, path: str, token: bytes) -> None:
        """Forget one; ENOENT if there is none."""
        watch = self._by_key.get(listener, {}).pop((path, token), None)
        if watch is None:
            raise XenstoreError("ENOENT", f"unwatch {path}")
        self._unlink(watch)

    def _unlink(self, watch: Watch) -> None:
        watches = self._by_path[watch.path]
        watches.remove(watch)
        if not watches:
            del self._by_path[watch.path]
        watch.listener.domain.nr_watches -= 1
        watch.listener.domain.memory_bytes -= watch.memory_bytes

    def remove_all(self, listener: Listener) -> None:
        """Forget all of a listener's."""
        for watch in self._by_key.pop(listener, {}).values():
            self._unlink(watch)

    def concerned(self, path: str, *, exact: bool = False) -> list[Watch]:
        """Whom a change concerns, in the order to tell them; `exact` if it is the watches on the very node only."""
        found: list[Watch] = []
        if not self._by_path:
            return found
        for at in (path,) if exact else ancestors_of(path):
            if at in self._by_path:
                found += self._by_path[at]
        if len(found) > 1:
            found.sort(key=attrgetter("order"))
        return found


def fire(watches: Iterable[Watch], path: str, may_know: Callable[[Domain], bool]) -> None:
    """Send an event for `path` to those whose domains may know; each domain is asked about once."""
    known: dict[Domain, bool] = {}
    for watch in watches:
        domain = watch.listener.domain
        if domain not in known:
            known[domain] = may_know(domain)
        if known[domain]:
            watch.fire(path)
