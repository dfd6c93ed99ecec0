"""The backend's cache of mapped grants: pages stay mapped between requests, up to a limit.

A red-black tree, keyed by grant reference, remembers what is mapped (Linux keeps the same tree in blkback.c). Looking
for a request's segment finds

    an idle node     it becomes active; no operation at all (a hit)
    an active node   some request in flight has it: this segment gets a mapping of its own, used once
    nothing          the page is mapped (a miss), and kept if there are fewer nodes than the limit; otherwise the
                     overflow flag is set and the mapping is used once, as if persistence did not exist; used once
                     likewise, without the flag, while the mapper is crowded

so that one request may mix kept and passing mappings. When it is done, kept ones become idle and passing ones are
unmapped, all in one operation and before the response: the frontend takes its pages back on seeing that.

`purge` makes room, at most every 100 ms: first it drops every node idle for longer than the timeout; then, if the limit
was reached and the flag says that it hurt, idle nodes in the order of their references until 5 % of the limit (in whole
per cents: a limit below 100 gives 0) are free. It is not a least-recently-used order; Linux's is not either.

Invariant: map_pages == unmap_pages + what is mapped now; nodes are at most the limit, unless it was lowered.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final, Protocol

from bintrees import RBTree

from xenblk._native import ffi
from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, GrantRef
from xenblk.grants.mapper import ForeignDomain, GrantMapper, Mapping, map_error
from xenblk.grants.status import GrantStatus

BATCH_MAX: Final = BLKIF_MAX_SEGMENTS_PER_REQUEST
"""References in one map operation, and in one unmap operation of a purge."""

PURGE_PERCENT: Final = 5


class GrantCounters(Protocol):
    """The counters that the cache keeps; what they count is said in xenblk.counters."""

    map_ops: int
    map_pages: int
    unmap_ops: int
    unmap_pages: int
    persistent_hits: int
    persistent_misses: int
    persistent_overflow: int
    persistent_purged: int
    persistent_current: int
    persistent_peak: int
    persistent_in_use: int


@dataclasses.dataclass(eq=False, slots=True)
class Grant:
    """A page lent to one request. `kept` while it is a node of the tree."""

    mapping: Mapping
    page: memoryview
    kept: bool = False
    active: bool = True
    last_used_s: float = 0.0


class OverflowFlag:
    """Whether a page of a device was not kept because of the limit; the rings of the device share it, as in Linux.

    Set by any of them, cleared by whichever purges something. `native` is the same for the native engine: a u32.
    """

    def __init__(self) -> None:
        self.native: Final = ffi.new("uint32_t *")

    def __bool__(self) -> bool:
        return bool(self.native[0])

    def set(self, overflowed: bool) -> None:
        """Set or clear it."""
        self.native[0] = overflowed


class PersistentGrants:
    """The mappings of one ring. Without `persistent` every mapping is used once, and read-only where that is enough.

    Not thread-safe: the ring's thread's.
    """

    def __init__(
        self,
        mapper: GrantMapper,
        domain: ForeignDomain,
        *,
        persistent: bool,
        max_persistent_grants: int = 1056,
        counters: GrantCounters,
        unused_timeout_s: float = 60.0,
        overflowed: OverflowFlag | None = None,
    ) -> None:
        self._mapper = mapper
        self._domain = domain
        self._persistent = persistent
        self._limit = max_persistent_grants
        self._counters = counters
        self._unused_timeout_s = unused_timeout_s
        self._tree = RBTree()
        self._overflowed = OverflowFlag() if overflowed is None else overflowed

    def acquire(self, refs: Sequence[GrantRef], *, device_writes: bool, now: float) -> list[Grant]:
        """The pages of one request's references, in their order. GrantError if one cannot be mapped: none is held then.

        `device_writes` says that the disk is written, so the pages are only read. `now` is as for `release`.
        """
        found: dict[int, Grant] = {}
        for i, ref in enumerate(refs):
            node = self._tree.get(ref) if self._persistent else None
            if node is not None and not node.active:
                found[i] = self._use(node)
        self._counters.persistent_hits += len(found)
        missing = [i for i in range(len(refs)) if i not in found]
        for start in range(0, len(missing), BATCH_MAX):
            batch = missing[start : start + BATCH_MAX]
            failed = self._map_batch(refs, batch, found, readonly=device_writes and not self._persistent)
            if failed is not None:
                self.release(list(found.values()), now)
                raise map_error(failed)
        return [found[i] for i in range(len(refs))]

    def _use(self, node: Grant) -> Grant:
        node.active = True
        self._counters.persistent_in_use += 1
        return node

    def _map_batch(
        self, refs: Sequence[GrantRef], batch: list[int], found: dict[int, Grant], readonly: bool
    ) -> Mapping | None:
        """Add to `found` what can be mapped; the first that cannot, if any."""
        mappings = self._mapper.map(self._domain, [refs[i] for i in batch], readonly)
        self._counters.map_ops += 1
        if self._persistent:
            self._counters.persistent_misses += len(batch)
        failed = None
        for i, mapping in zip(batch, mappings, strict=True):
            if mapping.page is None:
                failed = failed or mapping
            else:
                self._counters.map_pages += 1
                found[i] = Grant(mapping, mapping.page)
                self._keep(found[i])
        return failed

    def _keep(self, grant: Grant) -> None:
        if not self._persistent or grant.mapping.ref in self._tree:
            return
        full = len(self._tree) >= self._limit
        if full or self._mapper.is_crowded:
            # What others have mapped is nothing that a purge of ours makes room for.
            if full:
                self._overflowed.set(True)
            self._counters.persistent_overflow += 1
            return
        self._tree[grant.mapping.ref] = grant
        grant.kept = True
        self._counters.persistent_in_use += 1
        self._counters.persistent_current = len(self._tree)
        self._counters.persistent_peak = max(self._counters.persistent_peak, len(self._tree))

    def release(self, grants: Sequence[Grant], now: float) -> None:
        """A request is done with its pages, at `now` in seconds of any monotonic clock."""
        passing = []
        for grant in grants:
            if grant.kept:
                assert grant.active
                grant.active = False
                grant.last_used_s = now
                self._counters.persistent_in_use -= 1
            else:
                passing.append(grant)
        self._unmap(passing)

    def _unmap(self, grants: Sequence[Grant]) -> None:
        if not grants:
            return
        self._mapper.unmap([grant.mapping for grant in grants])
        self._counters.unmap_ops += 1
        self._counters.unmap_pages += len(grants)

    def set_limits(self, max_persistent_grants: int, unused_timeout_s: float) -> None:
        """Change both, for what is kept from now on and the next purge, which takes what is above a lower limit."""
        self._limit = max_persistent_grants
        self._unused_timeout_s = unused_timeout_s

    def purge(self, now: float) -> int:
        """Let go of what was unused for too long, then of what the limit asks for; returns how many nodes that were."""
        victims = []
        if self._unused_timeout_s > 0:
            victims = [node for node in self._idle() if now - node.last_used_s >= self._unused_timeout_s]
        wanted = self._num_clean() - len(victims)
        if wanted > 0:
            chosen = set(map(id, victims))
            victims += [node for node in self._idle() if id(node) not in chosen][:wanted]
        if victims:
            self._overflowed.set(False)
            self._drop(victims)
            self._counters.persistent_purged += len(victims)
        return len(victims)

    def _idle(self) -> list[Grant]:
        return [node for node in self._tree.values() if not node.active]

    def _num_clean(self) -> int:
        nodes, limit = len(self._tree), self._limit
        if nodes < limit or (nodes == limit and not self._overflowed):
            return 0
        return min(nodes, nodes - limit + limit // 100 * PURGE_PERCENT)

    def _drop(self, nodes: Sequence[Grant]) -> None:
        for node in nodes:
            del self._tree[node.mapping.ref]
        self._counters.persistent_current = len(self._tree)
        for start in range(0, len(nodes), BATCH_MAX):
            self._unmap(nodes[start : start + BATCH_MAX])

    def close(self) -> None:
        """Unmap everything; no request may be in flight."""
        nodes = list(self._tree.values())
        assert not any(node.active for node in nodes), "a page is in use while its ring is torn down"
        self._drop(nodes)
        assert self._counters.persistent_in_use == 0

    def _check(self) -> None:
        nodes = list(self._tree.items())
        assert all(node.kept and node.mapping.ref == ref for ref, node in nodes)
        assert all(node.mapping.status == GrantStatus.OKAY for _, node in nodes)
        assert self._counters.persistent_current == len(nodes)
        assert self._counters.persistent_in_use == sum(node.active for _, node in nodes)
