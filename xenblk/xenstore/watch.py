"""Watches: who is told of which change.

A change at P concerns each watch at P or above it. When a subtree is removed, watches inside it are told of their own
node, if it existed, children first; watches at or above its top are told of the top only. Each session hears of one
change in the order in which it registered. `@introduceDomain` and `@releaseDomain` are nodes outside the tree that have
nothing but permissions: who may read one hears of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from xenblk.errors import XenstoreError
from xenblk.xenstore.store import Caller, Node


class Listener(Protocol):
    """A session, as far as watches go."""

    caller: Caller

    def send_event(self, path: str, token: bytes) -> None:
        """Queue an event."""


@dataclasses.dataclass(eq=False, slots=True)
class Watch:
    """One registration; `prefix_chars` is what to cut from paths for a watch that was given relatively."""

    listener: Listener
    path: str
    token: bytes
    prefix_chars: int

    def fire(self, path: str) -> None:
        """Send an event for `path`."""
        self.listener.send_event(path[self.prefix_chars :] if self.prefix_chars else path, self.token)


class WatchTable:
    """All watches of a store, in order of registration."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []

    def add(self, watch: Watch) -> None:
        """Register; EEXIST for the same listener, path and token. The first event comes at once."""
        if self._find(watch.listener, watch.path, watch.token) is not None:
            raise XenstoreError("EEXIST", f"watch {watch.path}")
        self._watches.append(watch)

    def remove(self, listener: Listener, path: str, token: bytes) -> None:
        """Forget one; ENOENT if there is none."""
        watch = self._find(listener, path, token)
        if watch is None:
            raise XenstoreError("ENOENT", f"unwatch {path}")
        self._watches.remove(watch)

    def _find(self, listener: Listener, path: str, token: bytes) -> Watch | None:
        for watch in self._watches:
            if watch.listener is listener and watch.path == path and watch.token == token:
                return watch
        return None

    def remove_all(self, listener: Listener) -> None:
        """Forget all of a listener's."""
        self._watches = [watch for watch in self._watches if watch.listener is not listener]

    def changed(
        self,
        path: str,
        nodes: Sequence[Node | None],
        *,
        exact: bool = False,
    ) -> None:
        """Tell those concerned of a change; `exact` if these are the watches on the very node only.

        `nodes` are the node before and after, and its parent: a guest is told if it may read any of them.
        """
        for watch in self._watches:
            concerned = watch.path == path if exact else _covers(watch.path, path)
            if concerned and _may_know(watch.listener.caller, nodes):
                watch.fire(path)


def _covers(watched: str, path: str) -> bool:
    return watched in (path, "/") or path.startswith(watched + "/")


def _may_know(caller: Caller, nodes: Sequence[Node | None]) -> bool:
    return caller.privileged or any(node is not None and caller.may("r", node) for node in nodes)
