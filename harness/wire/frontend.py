"""A frontend by hand: writes the nodes it is told, grants the pages it is told, and steps through xenbus when told."""

import contextlib
from collections.abc import Mapping
from typing import Final

from xenblk.abi import DOM0, PAGE_SIZE, Domid, GrantRef
from xenblk.blkif import NATIVE, Abi, BlkifSegment
from xenblk.errors import XenstoreError
from xenblk.grants import Page
from xenblk.harness.wire.deadline import wait_for
from xenblk.harness.wire.ring import RawRing, end_access
from xenblk.platform import Platform
from xenblk.toolstack import frontend_path
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import XenstoreTransaction

GTF_READING: Final = 8
GTF_WRITING: Final = 16
GNTTAB_NR_RESERVED_ENTRIES: Final = 8


class GrantedPage:
    """A page of the guest's and the reference that grants it."""

    def __init__(self, platform: Platform, page: Page, ref: GrantRef) -> None:
        self._platform = platform
        self._page = page
        self.ref = ref
        self.view = page.view

    @property
    def mapped(self) -> bool:
        """Whether somebody has it mapped now."""
        return bool(self._platform.grant_table.flags(self.ref) & GTF_READING)

    @property
    def mapped_writable(self) -> bool:
        """Whether somebody has it mapped for writing now."""
        return bool(self._platform.grant_table.flags(self.ref) & GTF_WRITING)

    def segment(self, first_sect: int = 0, last_sect: int = 7) -> BlkifSegment:
        """Sectors of this page."""
        return BlkifSegment(self.ref, first_sect, last_sect)

    def close(self) -> bool:
        """End access; False if it is still mapped, and so stays granted."""
        return end_access(self._platform, self._page, self.ref)


class RawFrontend:
    """The frontend of device `handle` of the domain that `platform` runs. `close` gives everything back."""

    def __init__(self, platform: Platform, handle: int, backend_id: Domid = DOM0) -> None:
        self.platform = platform
        self.backend_id = backend_id
        self.path = frontend_path(platform.domid, handle)
        self.pages: list[GrantedPage] = []
        self.rings: list[RawRing] = []
        self.store = platform.xenstore()

    # What is granted

    def ring(self, abi: Abi = NATIVE, order: int = 0, *, scattered: bool = True, start: int = 0) -> RawRing:
        """A new ring, granted, with its event channel."""
        ring = RawRing(self.platform, self.backend_id, abi, order, scattered=scattered, start=start)
        self.rings.append(ring)
        return ring

    def page(
        self, content: bytes = b"", *, readonly: bool = False, domid: Domid | None = None, frame: int | None = None
    ) -> GrantedPage:
        """A page that begins with `content`, granted to the backend or to `domid`; `frame` grants another in its place.

        The rest of it is zero.
        """
        page = self.platform.memory.allocate_page()
        page.view[: len(content)] = content
        grantee = self.backend_id if domid is None else domid
        (ref,) = self.platform.grant_table.grant(grantee, [page.frame if frame is None else frame], readonly)
        self.pages.append(GrantedPage(self.platform, page, ref))
        return self.pages[-1]

    def pages_of(self, data: bytes) -> list[GrantedPage]:
        """As many pages as `data` fills."""
        return [self.page(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]

    def release(self, page: GrantedPage) -> bool:
        """Done with a page: end access and give it back; False if it is still mapped, and so stays granted."""
        self.pages.remove(page)
        return page.close()

    def ungranted_ref(self) -> GrantRef:
        """A reference that grants nothing, and will not: of Xen's own the last, which nobody uses."""
        return GrantRef(GNTTAB_NR_RESERVED_ENTRIES - 1)

    def mapped_pages(self) -> int:
        """How many of the data and ring pages are mapped by anybody."""
        refs = [page.ref for page in self.pages] + [ref for ring in self.rings for ref in ring.refs]
        return sum(bool(self.platform.grant_table.flags(ref) & GTF_READING) for ref in refs)

    # What is written

    def write(self, keys: Mapping[str, str | None]) -> None:
        """Write keys of the frontend's directory in one transaction; None removes one."""

        def change(transaction: XenstoreTransaction) -> None:
            removes = None in keys.values() and transaction.exists(self.path)
            there = set(transaction.directory(self.path)) if removes else set()
            for key, value in keys.items():
                if value is not None:
                    transaction.write(f"{self.path}/{key}", value)
                elif key.partition("/")[0] in there and transaction.exists(f"{self.path}/{key}"):
                    transaction.rm(f"{self.path}/{key}")

        self.store.transact(change)

    def switch(self, state: XenbusState | str) -> None:
        """Write the state."""
        self.store.write(f"{self.path}/state", state if isinstance(state, str) else str(int(state)))

    # What the backend shows

    @property
    def backend_path(self) -> str:
        """The backend's directory."""
        return self.store.read(f"{self.path}/backend")

    def backend_node(self, key: str) -> str | None:
        """A node of the backend's; None if it is not there."""
        return self.store.read(f"{self.backend_path}/{key}", "") or None

    def backend_number(self, key: str, default: int = 0) -> int:
        """A node of the backend's that is a number."""
        text = self.backend_node(key)
        return int(text) if text is not None and text.isdecimal() else default

    def backend_state(self) -> XenbusState:
        """The backend's state; Unknown if it is gone."""
        try:
            return parse_state(self.backend_node("state"))
        except XenstoreError:
            return XenbusState.UNKNOWN

    def await_backend(self, *states: XenbusState, timeout_s: float | None = None) -> XenbusState:
        """Wait until the backend is in one of these states; DeadlineError with the one it is in."""
        path = self.backend_path
        names = " or ".join(state.label for state in states)
        found = XenbusState.UNKNOWN

        def look() -> bool:
            nonlocal found
            try:
                found = parse_state(self.store.read(f"{path}/state", ""))
            except XenstoreError:  # its permissions went with it
                found = XenbusState.UNKNOWN
            return found in states

        try:
            wait_for(look, f"the backend to be {names}", timeout_s)
        except Exception as e:
            raise type(e)(f"{e}; it is {found.label}") from None
        return found

    def close(self) -> None:
        """Give back rings, pages and the connection to xenstore; what is still mapped stays granted."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.store.close)
            for page in self.pages:
                undo.callback(page.close)
            for ring in self.rings:
                undo.callback(ring.close)
        self.pages.clear()
        self.rings.clear()
