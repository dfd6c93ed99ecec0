"""What a connected frontend holds: ring pages granted to the backend, an event channel, a pool of granted pages."""

import contextlib
import itertools
from typing import Final

from xenblk.abi import Domid, GrantRef
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.lending import Lender
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import NATIVE, Abi
from xenblk.engines import ENGINES
from xenblk.grants import GrantPool, Page
from xenblk.platform import Platform
from xenblk.ring import FrontRing

POOL_PAGES_PER_ENTRY: Final = 12
"""11 segments and one page more, as Linux sizes the pool of a ring without indirect requests."""


class Ring:
    """The shared ring, its grants and its event channel: what there is from Initialised on."""

    def __init__(self, platform: Platform, backend: Domid, abi: Abi = NATIVE, page_order: int = 0) -> None:
        self._platform = platform
        self.abi = abi
        self.page_order = page_order
        self.refs: list[GrantRef] = []
        self._pages = platform.memory.allocate_run(1 << page_order)
        with contextlib.ExitStack() as undo:
            undo.callback(self._give_pages_back)
            self._view = platform.memory.join(self._pages)
            self.sring = FrontRing(self._view, abi.entry_size)
            for page in self._pages:
                self.refs.append(self._grant(page, backend))
            self.channel = platform.alloc_unbound(backend)
            undo.pop_all()

    def _grant(self, page: Page, backend: Domid) -> GrantRef:
        ref = self._platform.grant_table.allocate()
        self._platform.grant_table.grant_access(ref, backend, page.frame)
        return ref

    def keys(self) -> dict[str, str]:
        """The nodes that tell the backend how to reach this ring (io/blkif.h)."""
        nodes = {"event-channel": str(self.channel.port), "protocol": self.abi.protocol}
        if self.page_order == 0:
            return {**nodes, "ring-ref": str(self.refs[0])}
        refs = {f"ring-ref{i}": str(ref) for i, ref in enumerate(self.refs)}
        return {**nodes, "ring-page-order": str(self.page_order), **refs}

    def close(self) -> None:
        """Give back what the backend does not map any more; a page that it still maps stays granted and unused."""
        self.channel.close()
        self._give_pages_back()

    def _give_pages_back(self) -> None:
        for page, ref in itertools.zip_longest(self._pages, self.refs):
            if ref is None or self._end_access(ref):
                self._platform.memory.free_page(page)

    def _end_access(self, ref: GrantRef) -> bool:
        ended = self._platform.grant_table.end_access(ref)
        if ended:
            self._platform.grant_table.free(ref)
        return ended


class DataPath:
    """The engine and its pool: what there is while Connected."""

    engine: NativeFrontEngine | FrontEngine

    def __init__(
        self,
        platform: Platform,
        ring: Ring,
        backend: Domid,
        handle: int,
        persistent: bool,
        *,
        engine: str = ENGINES[0],
        poll_us: int = 0,
    ) -> None:
        self._platform = platform
        with contextlib.ExitStack() as undo:
            self.counters = platform.counters(f"vbd-{backend}-{platform.domid}-{handle}-0.front")
            undo.callback(self.counters.close)
            if engine == "native":
                self.engine = self._native_engine(ring, backend, handle, persistent, poll_us)
                undo.callback(self.engine.close)
            else:
                self.engine = self._python_engine(ring, backend, handle, persistent, undo)
            self._undo = undo.pop_all()

    def _native_engine(
        self, ring: Ring, backend: Domid, handle: int, persistent: bool, poll_us: int
    ) -> NativeFrontEngine:
        return NativeFrontEngine(
            ring.sring,
            ring.abi,
            handle,
            self.counters,
            self._platform.grant_table,
            self._platform.memory,
            backend,
            persistent,
            nr_pages=POOL_PAGES_PER_ENTRY * ring.sring.nr_ents,
            channel=ring.channel,
            poll_us=poll_us,
        )

    def _python_engine(
        self, ring: Ring, backend: Domid, handle: int, persistent: bool, undo: contextlib.ExitStack
    ) -> FrontEngine:
        table, memory = self._platform.grant_table, self._platform.memory
        pool = GrantPool(table, memory, backend, POOL_PAGES_PER_ENTRY * ring.sring.nr_ents)
        undo.callback(pool.close)
        lender = Lender(table, memory, pool, backend, persistent)
        engine = FrontEngine(ring.sring, ring.abi, handle, lender, self.counters)
        undo.callback(engine.close)
        return engine

    def close(self) -> None:
        """End all grants and give the pool's pages back, but for those that the backend still maps."""
        self._undo.close()
