"""The native data path of a frontend: engine.c behind the interface of engine.py."""

import errno
import functools
from typing import Any, Final

from xenblk._native import ffi, lib
from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, SECTOR_SIZE, Domid, GrantRef
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.features import Features
from xenblk.blkfront.lending import request_pages
from xenblk.blkif import BLKIF_MAX_INDIRECT_SEGMENTS, Abi, BlkifStatus
from xenblk.counters import Counters
from xenblk.errors import BlkifPeerError, GrantError, PeerError, UsageError
from xenblk.grants import GrantTable
from xenblk.platform import EventChannel, Memory
from xenblk.ring import FrontRing

_BIOS_PER_CHUNK: Final = 64


class NativeFrontEngine:
    """Drives one ring of one disk. The caller notifies the backend when `push` says so; one thread at a time.

    `features` is what the backend offers; the engine withdraws what it refuses. A backend that is not `trusted` is lent
    pages of the pool only. `native` is the engine itself, a `struct xb_front` (engine.h), for whoever submits from C;
    valid until `close`.
    """

    def __init__(
        self,
        ring: FrontRing,
        abi: Abi,
        handle: int,
        counters: Counters,
        table: GrantTable,
        memory: Memory,
        backend: Domid,
        persistent: bool,
        *,
        nr_pages: int,
        channel: EventChannel | None = None,
        poll_us: int = 0,
        max_segments: int = BLKIF_MAX_SEGMENTS_PER_REQUEST,
        trusted: bool = True,
        sector_size: int = SECTOR_SIZE,
        features: Features | None = None,
    ) -> None:
        assert ring.entry_size == abi.entry_size
        assert max_segments <= BLKIF_MAX_INDIRECT_SEGMENTS
        self.features = Features() if features is None else features
        self._ring = ring
        self._memory = memory
        self._table = table
        self._nr_refs_max = ring.nr_ents * max(max_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST)
        self._bios = _Bios()
        self._done = ffi.new("struct xb_bio *[]", ring.nr_ents)
        self._pages = memory.allocate_pages(nr_pages)
        self._prepare(backend, request_pages(max_segments))
        self._pool_pages = ffi.new("struct xb_pool_page[]", nr_pages)
        for page, entry in zip(self._pages, self._pool_pages, strict=True):
            entry.data, entry.frame = _address(page.view), page.frame
        # What the config points to must outlive the engine; cffi keeps none of it alive.
        self._lent = (ring, table, counters, channel, self.features)
        config = ffi.new("struct xb_front_config *")
        config.ring = ring.native
        config.table = table.native
        config.counters = ffi.cast("struct xb_counters *", _address(counters.fields))
        config.channel = ffi.NULL if channel is None else channel.native
        config.features, config.max_segments = self.features.native, max_segments
        config.pages, config.nr_pages = self._pool_pages, nr_pages
        address, nr_bytes = memory.extent
        config.memory, config.memory_bytes = ffi.cast("uint8_t *", address), nr_bytes if trusted else 0
        config.backend, config.handle, config.sector_bytes = backend, handle, sector_size
        config.persistent, config.poll_us = persistent, poll_us
        self.native: Any = lib.xb_front_create(config)
        if self.native == ffi.NULL:
            self._free_pages()
            raise UsageError(f"there is no memory for a ring of {ring.nr_ents} requests and {nr_pages} pages")
        self._fault = lib.xb_front_fault(self.native)

    def _prepare(self, backend: Domid, nr_pages: int) -> None:
        """One request at least can have all its pages, whatever becomes of others."""
        try:
            self._table.prepare(backend, [page.frame for page in self._pages[:nr_pages]])
        except GrantError:
            self._memory.free_pages(self._pages)
            raise

    @property
    def in_flight(self) -> int:
        """Requests on the ring that are not answered."""
        return lib.xb_front_in_flight(self.native)

    @property
    def busy(self) -> bool:
        """Whether any bio is not done."""
        return bool(lib.xb_front_busy(self.native))

    @property
    def holds_bios(self) -> bool:
        """Whether any bio that `submit` queued is not done."""
        return self._bios.any_in_flight

    def submit(self, bio: Bio) -> None:
        """Queue a bio; `fill` puts it on the ring as room comes."""
        lib.xb_front_submit(self.native, self._bios.take(bio))

    def fill(self) -> None:
        """Move queued bios to the ring while it has free slots and the domain free grants."""
        lib.xb_front_fill(self.native)

    def push(self) -> bool:
        """Publish what `fill` put on the ring; True if the backend must be notified."""
        return bool(lib.xb_front_push(self.native))

    def collect(self) -> list[Bio]:
        """Take the responses that are there; returns the bios that are done, those that needed none too.

        PeerError: trust the backend no more.

        What was done before that is returned first, and the next call raises.
        """
        return self._finished(lib.xb_front_collect(self.native, self._done, len(self._done)))

    def look_for(self) -> bool:
        """Look for a response for up to `poll_us`, without Python's lock; whether there is one."""
        return bool(lib.xb_front_look_for(self.native))

    def must_look_again(self) -> bool:
        """Before sleeping: ask for an event at the next response.

        True if there is one already, or if responses made room for what is queued.
        """
        return bool(lib.xb_front_final_check(self.native))

    def _finished(self, nr_done: int) -> list[Bio]:
        if nr_done == 0 and (fault := self.peer_fault) is not None:
            raise fault
        return [self._settled(native) for native in self._done[0:nr_done]]

    @property
    def peer_fault(self) -> PeerError | None:
        """What the backend did that cannot be believed, if it did."""
        return None if self._fault.code == lib.XB_FRONT_SOUND else self._explained(self._fault)

    def _settled(self, native: Any) -> Bio:
        bio, status = self._bios.give_back(native)
        bio.pieces_left = 0
        if native.error and status == BlkifStatus.OKAY:
            bio.error = OSError(int(native.error), f"the backend does not offer {bio.op.name}")
        elif native.error:
            bio.error = OSError(
                int(native.error), f"the backend answered status {status} to {bio.op.name} at {bio.offset}"
            )
        return bio

    def _explained(self, fault: Any) -> PeerError:
        if fault.code == lib.XB_FRONT_RING_BROKEN:
            return self._ring.broken()
        if fault.code == lib.XB_FRONT_UNKNOWN_ID:
            return BlkifPeerError(f"the backend answered request {fault.id:#x}, which is not waiting for an answer")
        if fault.code == lib.XB_FRONT_WRONG_OPERATION:
            return BlkifPeerError(
                f"the backend answered operation {fault.operation} to request {fault.id}, whose is {fault.expected}"
            )
        assert fault.code == lib.XB_FRONT_KEPT_PAGES
        return BlkifPeerError(f"the backend still maps {fault.kept} pages of a request that it answered")

    def reclaim(self, now_ns: int) -> int:
        """While grants are persistent, at most every 10 s: end those of idle pages that the backend unmapped.

        Returns how many. `now_ns` is any clock that does not run backwards.
        """
        return lib.xb_front_reclaim(self.native, now_ns)

    @property
    def persistent_gnts_c(self) -> int:
        """Granted pages that wait in the pool for the next request."""
        return lib.xb_front_persistent_grants(self.native)

    def take_unfinished(self) -> list[Bio]:
        """Give back every bio that is not done, in the order of their submission, to be submitted to another engine.

        What is half done is done again whole. What is lent stays lent until `close`; the engine is not used any more.
        Bios that were submitted from C are their submitter's to know about.
        """
        return self._taken(lib.xb_front_take_unfinished(self.native))

    def fail_all(self, error: OSError) -> list[Bio]:
        """Give up: as `take_unfinished`, and each of them ends with `error`, those that were submitted from C too."""
        bios = self._taken(lib.xb_front_fail_all(self.native, error.errno or errno.EIO))
        for bio in bios:
            bio.error, bio.pieces_left = error, 0
        return bios

    def _taken(self, native: Any) -> list[Bio]:
        bios = []
        while native != ffi.NULL:
            following = native.next
            if native in self._bios:
                bios.append(self._bios.give_back(native)[0])
            native = following
        return bios

    def close(self) -> None:
        """End all grants and give the pages back; of those that the backend still maps, once it lets go of them."""
        if self.native == ffi.NULL:
            return
        refs = ffi.new("uint32_t[]", self._nr_refs_max)
        for ref in refs[0 : lib.xb_front_abandon(self.native, refs, len(refs))]:
            self._table.end_access_later(GrantRef(ref))
        lib.xb_front_destroy(self.native)
        self.native = ffi.NULL
        self._free_pages()

    def _free_pages(self) -> None:
        ended = []
        for page, entry in zip(self._pages, self._pool_pages, strict=True):
            if entry.gref == lib.XB_POOL_NO_GREF:
                ended.append(page)
            else:
                self._table.end_access_later(GrantRef(entry.gref), functools.partial(self._memory.free_pages, [page]))
        self._memory.free_pages(ended)


class _Bios:
    """The engine's bios, which never move, and the Python ones that they stand for while they are in flight."""

    def __init__(self) -> None:
        self._chunks: list[Any] = []
        self._free: list[Any] = []
        self._in_flight: dict[Any, tuple[Bio, memoryview | None]] = {}

    def take(self, bio: Bio) -> Any:
        """A bio for the engine. Its buffer stays where it is until `give_back`."""
        if not self._free:
            self._grow()
        native = self._free.pop()
        # A view of our own: the caller may release his.
        view = None if bio.buffer is None else bio.buffer[:]
        native.op, native.offset, native.secure = bio.op, bio.offset, bio.secure
        bio.error = None
        native.buffer = ffi.NULL if view is None else _address(view)
        native.nr_bytes = bio.nr_bytes if view is None else view.nbytes
        self._in_flight[native] = bio, view
        return native

    def _grow(self) -> None:
        chunk = ffi.new("struct xb_bio[]", _BIOS_PER_CHUNK)
        self._chunks.append(chunk)
        self._free += [chunk + i for i in range(_BIOS_PER_CHUNK)]

    @property
    def any_in_flight(self) -> bool:
        """Whether the engine has any of these."""
        return bool(self._in_flight)

    def __contains__(self, native: Any) -> bool:
        """Whether it is one of these."""
        return native in self._in_flight

    def give_back(self, native: Any) -> tuple[Bio, int]:
        """The Python bio that is done, and its last bad status."""
        bio, _view = self._in_flight.pop(native)
        self._free.append(native)
        return bio, int(native.status)


def _address(memory: memoryview) -> Any:
    """Taken and let go at once: see xenblk.grants.entries. Whoever asks keeps the memory."""
    with ffi.from_buffer(memory) as buffer:
        return ffi.cast("uint8_t *", buffer)
