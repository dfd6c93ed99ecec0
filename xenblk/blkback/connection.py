"""One connection to a frontend: its rings mapped, their event channels bound, a thread that serves each."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from xenblk.abi import Domid
from xenblk.blkback.access import CopiedAccess, DataAccess, MappedAccess
from xenblk.blkback.charging import CarefulCharging, ChargedRecords, ChargedRing, Charging
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.frontend_keys import FrontendKeys, QueueKeys
from xenblk.blkback.journal import Journal, JournalFile, journal_path, ring_identity
from xenblk.blkback.native_server import NativeDisk, NativeServer
from xenblk.blkback.offers import Offer
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.python_server import PythonServer
from xenblk.blkback.ring_thread import RingThread, Server, start_thread
from xenblk.blkback.stats_log import StatsLog
from xenblk.counters import Counters
from xenblk.disk import Disk
from xenblk.errors import RingPeerError
from xenblk.grants import ForeignDomain, GrantMapper, OverflowFlag, PersistentGrants
from xenblk.platform import EventChannel, Platform
from xenblk.ring import BackRing


class Connection:
    """Everything that a connected device holds; `close` gives all of it back, whatever state it is in.

    Each queue has a ring, a thread, a cache of persistent grants and counters of its own, `name` and its number.
    `unsupported` is told, from a ring's thread, of a flush or barrier (BlkifOp) that the disk has no way to do.
    `offer` is what the frontend was promised, whatever becomes of the parameters.

    `left` is what another backend left of the same rings: their requests are served as if it had not ended.
    GrantError, HostError or RingPeerError if the frontend's keys lead nowhere; nothing is left behind then. On a
    `foreign` ring, of a backend that left no word of it, RingPeerError if there are requests, too: it may have answered
    some of them, and the frontend may use their pages for something else.
    """

    def __init__(
        self,
        platform: Platform,
        frontend: Domid,
        name: str,
        keys: FrontendKeys,
        disk: Disk,
        parameters: BackendParameters,
        charging: Charging | None = None,
        unsupported: Callable[[int], None] | None = None,
        *,
        offer: Offer | None = None,
        left: Sequence[JournalFile] = (),
        foreign: bool = False,
    ) -> None:
        self._foreign = foreign
        self._left = left
        self._leaving = False
        self._unsupported = unsupported
        self._disk = disk
        self._parameters = parameters
        self._careful = None if charging is None else CarefulCharging(charging)
        self._servers: list[Server] = []
        self._overflowed = OverflowFlag()
        # Read once: the parameter may change, and the two ends must agree on what was offered.
        self.offer = offer or Offer(parameters.offers_persistent, parameters.max_indirect_segments)
        with contextlib.ExitStack() as undo:
            domain = platform.foreign_domain(frontend)
            undo.callback(platform.release_domain, domain)
            # Bound first, so closed last: a frontend that finds a channel unbound may know that nothing is mapped.
            channels = [self._bind(platform, frontend, queue, undo) for queue in keys.queues]
            for number, (queue, channel) in enumerate(zip(keys.queues, channels, strict=True)):
                self._serve(name, number, platform, domain, channel, queue, keys, undo)
            self._undo = undo.pop_all()

    def _bind(self, platform: Platform, frontend: Domid, queue: QueueKeys, undo: contextlib.ExitStack) -> EventChannel:
        channel = platform.bind_interdomain(frontend, queue.event_channel)
        undo.callback(channel.close)
        return channel

    def _serve(
        self,
        device: str,
        number: int,
        platform: Platform,
        domain: ForeignDomain,
        channel: EventChannel,
        queue: QueueKeys,
        keys: FrontendKeys,
        undo: contextlib.ExitStack,
    ) -> None:
        name = f"{device}-{number}"
        region = platform.mapper.map_region(domain, queue.ring_refs)
        undo.callback(region.unmap)
        ring = BackRing(region.view, keys.abi.entry_size)
        if self._foreign and ring.look():
            raise RingPeerError(f"{name}: a backend died with requests on this ring; the frontend must start over")
        if self._left:
            ring.restore(self._left[number].journal.unanswered(ring.rsp_prod, ring.entry_size))
        # Now all that is unanswered stands on the ring, so an empty journal says the same as the old one.
        path = journal_path(platform.journals_dir(), device, number)
        journal = JournalFile.create(path, ring_identity(keys, queue), ring.nr_ents)
        undo.callback(lambda: journal.close() if self._leaving else journal.remove())
        counters = platform.counters(f"{name}.back")
        undo.callback(counters.close)
        stats = StatsLog(name, counters, self._parameters)
        persistent = keys.persistent and self.offer.persistent
        link = _Link(
            platform.mapper,
            domain,
            channel,
            counters,
            ring,
            keys,
            self._overflowed,
            stats,
            persistent,
            self.offer.max_indirect_segments,
            journal.journal,
        )
        server = _server(link, self._disk, self._parameters, self._careful, self._unsupported)
        undo.callback(server.close)
        server.start()
        thread = RingThread(name, server)
        start_thread(thread)
        undo.callback(thread.stop)
        if self._left:
            channel.notify()  # the other backend may have published without
        self._servers.append(server)
        if self._careful is not None:
            charged = ChargedRing(name, self._parameters.records_per_page * ring.nr_pages, server.charge)
            undo.callback(charged.close)
            self._careful.connected(charged)

    def resize(self, size: int) -> None:
        """The disk has another size now, in bytes."""
        for server in self._servers:
            server.resize(size)

    def close(self) -> None:
        """Stop serving, then unmap and unbind; nothing of the frontend is held afterwards."""
        self._undo.close()

    def leave(self) -> None:
        """As `close`, and have another backend go on where this one stopped."""
        self._leaving = True
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    """What leads to the frontend."""

    mapper: GrantMapper
    domain: ForeignDomain
    channel: EventChannel
    counters: Counters
    ring: BackRing
    keys: FrontendKeys
    overflowed: OverflowFlag
    stats: StatsLog
    persistent: bool
    max_indirect_segments: int
    journal: Journal


def _server(
    link: _Link,
    disk: Disk,
    parameters: BackendParameters,
    charging: Charging | None,
    unsupported: Callable[[int], None] | None,
) -> Server:
    if parameters.engine == "native" and isinstance(disk, NativeDisk):
        return NativeServer(
            link.ring,
            disk,
            link.mapper,
            link.domain,
            link.channel,
            link.counters,
            parameters,
            persistent=link.persistent,
            overflowed=link.overflowed,
            stats=link.stats,
            charging=charging,
            unsupported=unsupported,
            max_indirect_segments=link.max_indirect_segments,
            journal=link.journal,
        )
    access = _access(link, parameters)
    records = ChargedRecords(parameters.records_per_page * link.ring.nr_pages, charging)
    engine = PythonEngine(
        link.ring,
        link.keys.abi,
        disk,
        access,
        link.counters,
        records,
        max_indirect_segments=link.max_indirect_segments,
        unsupported=unsupported,
        journal=link.journal,
    )
    return PythonServer(engine, access, link.channel, records, link.stats)


def _access(link: _Link, parameters: BackendParameters) -> DataAccess:
    if parameters.grant_copy:
        return CopiedAccess(link.mapper, link.domain, link.counters)
    return MappedAccess(
        PersistentGrants(
            link.mapper,
            link.domain,
            persistent=link.persistent,
            max_persistent_grants=parameters.max_persistent_grants,
            counters=link.counters,
            unused_timeout_s=parameters.persistent_grant_unused_seconds,
            overflowed=link.overflowed,
        ),
        parameters,
    )
