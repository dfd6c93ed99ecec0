"""One connection to a frontend: its ring mapped, its event channel bound, a thread that serves it."""

import contextlib

from xenblk.abi import Domid
from xenblk.blkback.access import CopiedAccess, DataAccess, MappedAccess
from xenblk.blkback.engine import PythonEngine
from xenblk.blkback.frontend_keys import FrontendKeys
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkback.ring_thread import RingThread
from xenblk.disk import Disk
from xenblk.grants import PersistentGrants
from xenblk.platform import Platform
from xenblk.ring import BackRing


class Connection:
    """Everything that a connected device holds; `close` gives all of it back, whatever state it is in.

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
    ) -> None:
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
            access: DataAccess
            if parameters.grant_copy:
                access = CopiedAccess(platform.mapper, domain, counters)
            else:
                access = MappedAccess(
                    PersistentGrants(
                        platform.mapper,
                        domain,
                        persistent=keys.persistent and parameters.offers_persistent,
                        max_persistent_grants=parameters.max_persistent_grants,
                        counters=counters,
                        unused_timeout_s=parameters.persistent_grant_unused_seconds,
                    )
                )
            undo.callback(access.close)
            engine = PythonEngine(ring, keys.abi, disk, access, counters)
            thread = RingThread(name, engine, access, channel)
            thread.start()
            undo.callback(thread.stop)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Stop serving, then unmap and unbind; nothing of the frontend is held afterwards."""
        self._undo.close()
