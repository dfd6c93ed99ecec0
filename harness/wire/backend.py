"""A backend by hand: it writes exactly the nodes that it is told to, and takes each step when it is told to.

Nothing follows from anything here: no state is answered, no request served and no grant unmapped on its own. `close`
gives back whatever was mapped and bound.
"""

import contextlib
from collections.abc import Mapping as NodesMapping
from collections.abc import Sequence
from typing import Final

from xenblk.abi import SECTOR_SIZE, Domid, EvtchnPort, GrantRef
from xenblk.blkif import ABI_BY_PROTOCOL, NATIVE, Abi, BlkifSegment, IndirectRequest, Request
from xenblk.errors import GrantError, XenblkError, XenstoreError
from xenblk.grants import CopySegment, ForeignDomain, GrantMapper, GrantStatus, Mapping
from xenblk.harness.wire.back_ring import RawBackRing
from xenblk.harness.wire.deadline import wait_for
from xenblk.platform import Platform
from xenblk.toolstack import backend_path, frontend_path
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import XenstoreTransaction

Nodes = NodesMapping[str, str | None]
"""Nodes of a directory and their values; None is a node that must not be there."""

INDIRECT_SEGMENTS_PER_PAGE: Final = 512


class FrontendKeysError(XenblkError):
    """What the frontend published leads to no ring; the message names the key."""


class RawBackend:
    """The backend of one disk of domain `domid`, on the platform of the domain that it is in."""

    def __init__(self, platform: Platform, domid: Domid, handle: int) -> None:
        self.domid: Final = domid
        self.handle: Final = handle
        self.path: Final = backend_path(platform.domid, domid, handle)
        self.frontend_path: Final = frontend_path(domid, handle)
        self.store: Final = platform.xenstore()
        self.rings: list[RawBackRing] = []
        self._platform = platform
        self._domain: ForeignDomain | None = None
        self._mapped: dict[GrantRef, Mapping] = {}
        self._by_hand: set[Mapping] = set()
        self._undo = contextlib.ExitStack()

    # Nodes

    def write(self, nodes: Nodes) -> None:
        """Write own nodes, in one transaction."""
        self.store.transact(lambda store: write_nodes(store, self.path, nodes))

    def switch(self, state: XenbusState | str) -> None:
        """Write the own state, in no transaction."""
        self.store.write(f"{self.path}/state", state if isinstance(state, str) else str(int(state)))

    @property
    def frontend_state(self) -> XenbusState:
        """As it is now."""
        return parse_state(self.store.read(f"{self.frontend_path}/state", ""))

    def await_frontend(self, *states: XenbusState, timeout_s: float | None = None) -> XenbusState:
        """Wait until the frontend is in one of the states; DeadlineError if it is not in time."""
        names = " or ".join(state.label for state in states)
        wait_for(lambda: self.frontend_state in states, f"the frontend to go to {names}", timeout_s)
        return self.frontend_state

    def frontend_keys(self) -> dict[str, str]:
        """All that the frontend's directory holds at one moment, those of queues as `queue-0/ring-ref`."""
        return self.store.transact(lambda store: dict(_tree(store, self.frontend_path, "")))

    # Rings

    def abi(self, default: Abi = NATIVE) -> Abi:
        """The layout that the frontend named; `default` if it named none, FrontendKeysError if nobody knows it."""
        protocol = self.frontend_keys().get("protocol")
        if protocol is None:
            return default
        if protocol not in ABI_BY_PROTOCOL:
            raise FrontendKeysError(f"the frontend's `protocol` is {protocol!r}, which is none of {[*ABI_BY_PROTOCOL]}")
        return ABI_BY_PROTOCOL[protocol]

    def attach_rings(self) -> list[RawBackRing]:
        """Map every ring that the frontend published and bind its event channel; `rings` has them from then on."""
        keys = self.frontend_keys()
        nr_queues = int(keys.get("multi-queue-num-queues", "1"))
        abi = self.abi()
        for queue in range(nr_queues):
            prefix = f"queue-{queue}/" if nr_queues > 1 else ""
            self.attach_ring(ring_refs(keys, prefix), EvtchnPort(int(_key(keys, f"{prefix}event-channel"))), abi)
        return self.rings

    def attach_ring(self, refs: Sequence[GrantRef], port: EvtchnPort, abi: Abi) -> RawBackRing:
        """Map one more ring and bind its event channel; GrantError or HostError if that cannot be done."""
        channel = self._platform.bind_interdomain(self.domid, port)
        self._undo.callback(channel.close)
        region = self._mapper.map_region(self.domain, refs)
        self._undo.callback(region.unmap)
        self.rings.append(RawBackRing(region.view, abi, channel))
        return self.rings[-1]

    @property
    def ring(self) -> RawBackRing:
        """The first ring."""
        return self.rings[0]

    @property
    def domain(self) -> ForeignDomain:
        """The frontend's domain, to map grants of."""
        if self._domain is None:
            self._domain = self._platform.foreign_domain(self.domid)
        return self._domain

    @property
    def _mapper(self) -> GrantMapper:
        return self._platform.mapper

    # Data pages

    def map(self, ref: GrantRef, readonly: bool = False) -> Mapping:
        """Map a page and keep it mapped until `unmap`; GrantError if it is not granted so."""
        (mapping,) = self._mapper.map(self.domain, [ref], readonly)
        if mapping.page is None:
            raise GrantError(f"grant {ref} of domain {self.domid}: {mapping.status.sentence}", mapping.status)
        self._by_hand.add(mapping)
        return mapping

    def unmap(self, mapping: Mapping) -> None:
        """Unmap a page of `map`."""
        self._by_hand.discard(mapping)
        self._mapper.unmap([mapping])

    def is_granted(self, ref: GrantRef, *, for_writing: bool = True) -> bool:
        """Whether the page could be mapped now; it is not afterwards."""
        try:
            mapping = self.map(ref, readonly=not for_writing)
        except GrantError:
            return False
        self.unmap(mapping)
        return True

    def keep(self, ref: GrantRef) -> memoryview:
        """The page, mapped for writing now or by an earlier call and kept so until `let_go`."""
        if ref not in self._mapped:
            self._mapped[ref] = self.map(ref)
        page = self._mapped[ref].page
        assert page is not None
        return page

    @property
    def kept(self) -> set[GrantRef]:
        """The references of pages that are kept mapped."""
        return set(self._mapped)

    def let_go(self) -> None:
        """Unmap what is kept."""
        mappings, self._mapped = list(self._mapped.values()), {}
        self._by_hand.difference_update(mappings)
        self._mapper.unmap(mappings)

    def segments(self, request: Request, keep: bool = False) -> Sequence[BlkifSegment]:
        """The segments of a request, an indirect one's from its pages."""
        if not isinstance(request, IndirectRequest):
            return getattr(request, "segments", ())
        found: list[BlkifSegment] = []
        left = request.nr_segments
        for ref in request.indirect_grefs[: -(-left // INDIRECT_SEGMENTS_PER_PAGE)]:
            raw = self.read_page(ref, keep)
            for at in range(0, 8 * min(left, INDIRECT_SEGMENTS_PER_PAGE), 8):
                gref = GrantRef(int.from_bytes(raw[at : at + 4], "little"))
                found.append(BlkifSegment(gref, raw[at + 4], raw[at + 5]))
            left -= INDIRECT_SEGMENTS_PER_PAGE
        return found

    def read_page(self, ref: GrantRef, keep: bool = False) -> bytes:
        """A copy of a granted page."""
        if keep:
            return bytes(self.keep(ref))
        mapping = self.map(ref, readonly=True)
        assert mapping.page is not None
        content = bytes(mapping.page)
        self.unmap(mapping)
        return content

    def gather(self, segments: Sequence[BlkifSegment], keep: bool = False) -> bytes:
        """The data of a write."""
        return b"".join(
            self.read_page(s.gref, keep)[s.first_sect * SECTOR_SIZE : (s.last_sect + 1) * SECTOR_SIZE] for s in segments
        )

    def scatter(self, segments: Sequence[BlkifSegment], data: bytes, keep: bool = False) -> None:
        """Put the data of a read into the frontend's pages; GrantError if one is not granted for writing."""
        at = 0
        for segment in segments:
            start, end = segment.first_sect * SECTOR_SIZE, (segment.last_sect + 1) * SECTOR_SIZE
            mapping = None if keep else self.map(segment.gref)
            page = self.keep(segment.gref) if mapping is None else mapping.page
            assert page is not None
            page[start:end] = data[at : at + end - start].ljust(end - start, b"\0")
            at += end - start
            if mapping is not None:
                self.unmap(mapping)

    def copy(self, segments: Sequence[BlkifSegment], buffers: Sequence[memoryview], *, to_grant: bool) -> None:
        """Have Xen copy between segments and buffers of their lengths; GrantError if it refuses one."""
        pieces = [
            CopySegment(segment.gref, segment.first_sect * SECTOR_SIZE, buffer, to_grant)
            for segment, buffer in zip(segments, buffers, strict=True)
        ]
        for piece, status in zip(pieces, self._mapper.copy(self.domain, pieces), strict=True):
            if status != GrantStatus.OKAY:
                raise GrantError(f"grant {piece.ref} of domain {self.domid}: {status.sentence}", status)

    def disconnect(self) -> None:
        """Unmap rings and kept pages and close the event channels; nodes, and pages of `map`, stay as they are."""
        self.rings = []
        self.let_go()
        self._undo.close()

    def close(self) -> None:
        """Disconnect, unmap what is left, and leave xenstore."""
        self.disconnect()
        if self._domain is not None:
            self._mapper.unmap([*self._by_hand])
            self._platform.release_domain(self._domain)
        self.store.close()


def ring_refs(keys: NodesMapping[str, str], prefix: str = "") -> list[GrantRef]:
    """The pages of a ring in either dialect; FrontendKeysError if a key is missing or is no number."""
    order = keys.get(f"{prefix}ring-page-order", keys.get("ring-page-order"))
    pages = 1 << int(order) if order is not None else int(keys.get("num-ring-pages", "1"))
    if pages == 1 and f"{prefix}ring-ref" in keys:
        return [GrantRef(int(_key(keys, f"{prefix}ring-ref")))]
    return [GrantRef(int(_key(keys, f"{prefix}ring-ref{page}"))) for page in range(pages)]


def _key(keys: NodesMapping[str, str], name: str) -> str:
    value = keys.get(name, "")
    if not (value.isascii() and value.isdecimal()):
        raise FrontendKeysError(f"the frontend's `{name}` is {value!r}, which is no number")
    return value


def write_nodes(store: XenstoreTransaction, path: str, nodes: Nodes) -> None:
    """Write nodes of a directory, and remove those that must not be there."""
    for name, value in nodes.items():
        if value is not None:
            store.write(f"{path}/{name}", value)
        elif store.exists(f"{path}/{name}"):
            store.rm(f"{path}/{name}")


def _tree(store: XenstoreTransaction, path: str, prefix: str) -> list[tuple[str, str]]:
    try:
        names = store.directory(path)
    except XenstoreError:
        return []
    found: list[tuple[str, str]] = []
    for name in names:
        below = _tree(store, f"{path}/{name}", f"{prefix}{name}/")
        found += below or [(f"{prefix}{name}", store.read(f"{path}/{name}", ""))]
    return found
