"""What the drivers ask of a Xen, emulated or real: xenstore, grants to give, grants to map, event channels.

Nothing above a platform knows which one it has.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from xenblk.abi import Domid, EvtchnPort
from xenblk.counters import Counters
from xenblk.grants import ForeignDomain, GrantMapper, GrantTable, Page
from xenblk.xenstore.client import Xenstore


class EventChannel(Protocol):
    """This process's end of an event channel: one bit that the other end can set."""

    port: EvtchnPort
    native: Any
    """The same for a native engine: a `struct xb_channel` (xenblk/channel.h), valid until `close`."""

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` would not block, for a selector."""

    def notify(self) -> None:
        """Send an event to the other end; lost if nobody is bound there, merged with one not taken yet."""

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for an event and take it; False after the timeout. Spurious events are possible at any time."""

    def wake(self) -> None:
        """Let our own `wait` return, from any thread."""

    @property
    def remote_bound(self) -> bool:
        """Whether somebody holds the other end, as far as this platform can tell."""

    def close(self) -> None:
        """Close the port."""


class Memory(Protocol):
    """The memory of the domain that this process runs, by pages that can be granted."""

    def allocate_page(self) -> Page:
        """One zeroed page."""

    def free_page(self, page: Page) -> None:
        """Give a page back that no other domain maps any more."""

    def allocate_pages(self, count: int, /) -> list[Page]:
        """So many zeroed pages, wherever they are, or none: UsageError."""

    def free_pages(self, pages: Iterable[Page], /) -> None:
        """As `free_page`, for many at once."""

    def allocate_run(self, nr_pages: int) -> list[Page]:
        """Zeroed pages at consecutive addresses; `join` gives one view of them."""

    def join(self, run: list[Page]) -> memoryview:
        """One view over the pages of `allocate_run`."""

    @property
    def extent(self) -> tuple[int, int]:
        """Address and bytes of the memory that `locate` finds buffers in: one run, frame 0 first. 0 bytes: none is."""

    def locate(self, buffer: memoryview) -> tuple[int, int] | None:
        """Frame and offset at which a buffer begins, None if it does not lie in the domain's memory."""


class Platform(Protocol):
    """One process's access to its Xen, as domain `domid`."""

    domid: Domid

    @property
    def mapper(self) -> GrantMapper:
        """Maps, unmaps and copies what other domains granted to this one."""

    @property
    def grant_table(self) -> GrantTable:
        """Grants this domain's pages; UsageError in domain 0, which grants nothing."""

    @property
    def memory(self) -> Memory:
        """This domain's memory; UsageError in domain 0."""

    def xenstore(self) -> Xenstore:
        """A new connection to xenstore, the caller's to close."""

    def foreign_domain(self, domid: Domid) -> ForeignDomain:
        """Another domain, to map grants of; the caller gives it back with `release_domain`."""

    def release_domain(self, domain: ForeignDomain) -> None:
        """Done with a domain; nothing of it may be mapped any more."""

    def alloc_unbound(self, remote: Domid) -> EventChannel:
        """A new event channel that `remote` may bind to."""

    def bind_interdomain(self, remote: Domid, port: EvtchnPort) -> EventChannel:
        """Bind to the event channel that `remote` allocated."""

    def counters(self, name: str) -> Counters:
        """Counters in a file that anyone may read while they run; the caller closes them."""

    def counters_dir(self) -> Path:
        """Where those files are."""

    def journals_dir(self) -> Path:
        """Where backends leave what the next one needs: a folder as lasting as the domains."""

    def halt(self) -> None:
        """Shut this domain down in good order, before `close`."""

    def close(self) -> None:
        """Leave."""
