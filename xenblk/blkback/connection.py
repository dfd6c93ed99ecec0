"""One connection to a frontend: its ring mapped, its event channel bound, a thread that serves it."""

import contextlib
import dataclasses
from collections.abc import Callable

from xenblk.abi import Domid
from xenblk.blkback.access import CopiedAccess, DataAccess, MappedAccess
from xenblk.blkback.charging import CarefulCharging, ChargedRecords, ChargedRing, Charging
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.frontend_keys import FrontendKeys
from xenblk.blkback.native_server import NativeDisk, NativeServer
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.python_server import PythonServer
from xenblk.blkback.ring_thread import RingThread, Server, start_thread
from xenblk.counters import Counters
from xenblk.disk import Disk
from xenblk.grants import ForeignDomain, GrantMapper, PersistentGrants
from xenblk.platform import EventChannel, Platform
from xenblk.ring import BackRing


class Connection:
    """Everything that a connected device holds; `close` gives all of it back, whatever state it is in.

    `unsupported` is told, from the ring's thread, of a flush or barrier (BlkifOp) that the disk has no way to do.

    GrantError, HostError or RingPeerError if the frontend's keys lead nowhere; nothing is left behind then.
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
    ) -> None:
        careful = None if charging is None else CarefulCharging(charging)
        with contextlib.ExitStack() as undo:
            domain = platform.foreign_domain(frontend)
            undo.callback(platform.release_domain, domain)
            # Bound first, so closed last: a frontend that finds its channel unbound may know that nothing is mapped.
            channel = platform.bind_interdomain(frontend, keys.event_channel)
            undo.callback(channel.close)
            region = platform.mapper.map_region(domain, keys.ring_refs)
            undo.callback(region.unmap)
            ring = BackRing(region.view, keys.abi.entry_size)
            counters = platform.counters(f"{name}.back")
            undo.callback(counters.close)
            link = _Link(platform.mapper, domain, channel, counters, ring, keys)
            server = _server(link, disk, parameters, careful, unsupported)
            undo.callback(server.close)
            server.start()
            thread = RingThread(name, server)
            start_thread(thread)
            undo.callback(thread.stop)
            if careful is not None:
                charged = ChargedRing(name, parameters.records_per_page * ring.nr_pages, server.charge)
                undo.callback(charged.close)
                careful.connected(charged)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Stop serving, then unmap and unbind; nothing of the frontend is held afterwards."""
        self._undo.close()


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    """What leads to the frontend."""

    mapper: GrantMapper
    domain: ForeignDomain
    channel: EventChannel
    counters: Counters
    ring: BackRing
    keys: FrontendKeys


def _server(
    link: _Link,
    disk: Disk,
    parameters: BackendParameters,
    charging: Charging | None,
    unsupported: Callable[[int], None] | None,
) -> Server:
    persistent = link.keys.persistent and parameters.offers_persistent
    if parameters.engine == "native" and isinstance(disk, NativeDisk):
        return NativeServer(
            link.ring,
            disk,
            link.mapper,
            link.domain,
            link.channel,
            link.counters,
            parameters,
            persistent=persistent,
            charging=charging,
            unsupported=unsupported,
        )
    access = _access(link, parameters, persistent)
    records = ChargedRecords(parameters.records_per_page * link.ring.nr_pages, charging)
    engine = PythonEngine(
        link.ring,
        link.keys.abi,
        disk,
        access,
        link.counters,
        records,
        max_indirect_segments=parameters.max_indirect_segments,
        unsupported=unsupported,
    )
    return PythonServer(engine, access, link.channel, records)


def _access(link: _Link, parameters: BackendParameters, persistent: bool) -> DataAccess:
    if parameters.grant_copy:
        return CopiedAccess(link.mapper, link.domain, link.counters)
    return MappedAccess(
        PersistentGrants(
            link.mapper,
            link.domain,
            persistent=persistent,
            max_persistent_grants=parameters.max_persistent_grants,
            counters=link.counters,
            unused_timeout_s=parameters.persistent_grant_unused_seconds,
        )
    )
