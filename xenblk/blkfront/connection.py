"""What a connected frontend holds: ring pages granted to the backend, an event channel, a pool of granted pages."""

import contextlib
import functools
import itertools

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, SECTOR_SIZE, Domid, GrantRef
from xenblk.blkfront.engine import FrontEngine
from xenblk.blkfront.features import Features
from xenblk.blkfront.lending import Lender
from xenblk.blkfront.native_engine import NativeFrontEngine
from xenblk.blkif import NATIVE, SEGMENTS_PER_INDIRECT_PAGE, Abi
from xenblk.engines import ENGINES
from xenblk.grants import GrantPool
from xenblk.platform import Platform
from xenblk.ring import FrontRing


def pool_size(nr_ents: int, max_segments: int) -> int:
    """Pages for a full ring: segments and descriptor pages of its requests; as Linux, one of these at least."""
    nr_segments = max(max_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)
    return nr_ents * (nr_segments + -(-nr_segments // SEGMENTS_PER_INDIRECT_PAGE))


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
            self.refs += platform.grant_table.grant(backend, [page.frame for page in self._pages])
            self.channel = platform.alloc_unbound(backend)
            undo.pop_all()

    def keys(self) -> dict[str, str]:
        """The nodes that tell the backend how to reach this ring, its size in both dialects (io/blkif.h, note 3)."""
        nodes = {"event-channel": str(self.channel.port), "protocol": self.abi.protocol}
        if self.page_order == 0:
            return {**nodes, "ring-ref": str(self.refs[0])}
        refs = {f"ring-ref{i}": str(ref) for i, ref in enumerate(self.refs)}
        sizes = {"ring-page-order": str(self.page_order), "num-ring-pages": str(1 << self.page_order)}
        return {**nodes, **sizes, **refs}

    def close(self) -> None:
        """Give the pages back; one that the backend still maps stays granted and unused until it lets go."""
        self.channel.close()
        self._give_pages_back()

    def _give_pages_back(self) -> None:
        table, memory = self._platform.grant_table, self._platform.memory
        for page, ref in itertools.zip_longest(self._pages, self.refs):
            if ref is None:
                memory.free_page(page)
            else:
                table.end_access_later(ref, functools.partial(memory.free_page, page))
        table.end_deferred()


class DataPath:
    """The engine and its pool: what there is while Connected.

    `persistent`, `max_segments` (of a request; up to 11 there are no indirect ones) and `features` are what both sides
    agreed on; the rings of one disk share its `features`. `sector_size` is that of the disk. A backend that is not
    `trusted` is lent pages of the pool only.
    """

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
        max_segments: int = BLKIF_MAX_SEGMENTS_PER_REQUEST,
        trusted: bool = True,
        sector_size: int = SECTOR_SIZE,
        features: Features | None = None,
        queue: int = 0,
    ) -> None:
        self._platform = platform
        self._max_segments = max_segments
        self._trusted = trusted
        self._sector_size = sector_size
        self._features = Features() if features is None else features
        platform.grant_table.end_deferred()
        with contextlib.ExitStack() as undo:
            self.counters = platform.counters(f"vbd-{backend}-{platform.domid}-{handle}-{queue}.front")
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
            nr_pages=pool_size(ring.sring.nr_ents, self._max_segments),
            channel=ring.channel,
            poll_us=poll_us,
            max_segments=self._max_segments,
            trusted=self._trusted,
            sector_size=self._sector_size,
            features=self._features,
        )

    def _python_engine(
        self, ring: Ring, backend: Domid, handle: int, persistent: bool, undo: contextlib.ExitStack
    ) -> FrontEngine:
        table, memory = self._platform.grant_table, self._platform.memory
        pool = GrantPool(table, memory, backend, pool_size(ring.sring.nr_ents, self._max_segments))
        undo.callback(pool.close)
        lender = Lender(
            table,
            memory,
            pool,
            backend,
            persistent,
            trusted=self._trusted,
            max_segments=self._max_segments,
            sector_size=self._sector_size,
        )
        engine = FrontEngine(ring.sring, ring.abi, handle, lender, self.counters, self._features)
        undo.callback(engine.close)
        return engine

    def reclaim(self, now_ns: int) -> None:
        """Follow the backend's unmapping: of idle pages at most every 10 s, of what an earlier connection left."""
        self.engine.reclaim(now_ns)
        self._platform.grant_table.end_deferred()

    def close(self) -> None:
        """End all grants and give the pool's pages back; of those that the backend still maps, once it lets go."""
        self._undo.close()
