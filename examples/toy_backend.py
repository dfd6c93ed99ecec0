"""A block backend in a hundred lines: one disk, a ring of one page, data moved by grant copy.

It serves the first disk that it finds in the emulated Xen of $XENBLK_RUN_DIR, and prints `ready` when it looks for one.
"""

from xenblk.abi import DOM0, SECTOR_SIZE, Domid, EvtchnPort, GrantRef
from xenblk.blkif import (
    ABI_BY_PROTOCOL,
    VDISK_READONLY,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    BlkifStatus,
)
from xenblk.disk import open_disk
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import default_run_dir
from xenblk.grants import CopySegment, GrantStatus
from xenblk.ring import BackRing
from xenblk.xenbus import XenbusState, parse_state
from xenblk.xenstore.client import Xenstore

ROOT = "/local/domain/0/backend/vbd"


class Connection:
    """A frontend's ring, mapped, and the disk behind it."""

    def __init__(self, platform: EmulatedPlatform, store: Xenstore, back: str) -> None:
        front = store.read(f"{back}/frontend")
        domid = Domid(int(store.read(f"{back}/frontend-id")))
        self.abi = ABI_BY_PROTOCOL[store.read(f"{front}/protocol")]
        self.disk = open_disk(store.read(f"{back}/params"), read_only="w" not in store.read(f"{back}/mode"))
        self.mapper = platform.mapper
        self.domain = platform.foreign_domain(domid)
        self.channel = platform.bind_interdomain(domid, EvtchnPort(int(store.read(f"{front}/event-channel"))))
        self.region = self.mapper.map_region(self.domain, [GrantRef(int(store.read(f"{front}/ring-ref")))])
        self.ring = BackRing(self.region.view, self.abi.entry_size)

    def serve(self) -> None:
        """Answer what is there, then wait a little for more."""
        while self.ring.final_check():  # which asks for an event when there is nothing
            while (slot := self.ring.consume()) is not None:
                request = self.abi.parse_request(slot)
                status = BlkifStatus.EOPNOTSUPP
                if isinstance(request, BlkifRequest) and request.operation in (BlkifOp.READ, BlkifOp.WRITE):
                    status = self.move(request)
                self.ring.put(self.abi.pack_response(BlkifResponse(request.id, request.operation, status)))
            if self.ring.push():
                self.channel.notify()
        self.channel.wait(0.01)

    def move(self, request: BlkifRequest) -> BlkifStatus:
        """Copy each segment between the guest's page and the disk."""
        offset = request.sector_number * SECTOR_SIZE
        for segment in request.segments:
            data = bytearray((segment.last_sect - segment.first_sect + 1) * SECTOR_SIZE)
            try:
                if request.operation == BlkifOp.READ:
                    data[:] = self.disk.pread(len(data), offset)
                if not self.copy(segment, data, to_grant=request.operation == BlkifOp.READ):
                    return BlkifStatus.ERROR
                if request.operation == BlkifOp.WRITE:
                    self.disk.pwrite(data, offset)
            except OSError:
                return BlkifStatus.ERROR
            offset += len(data)
        return BlkifStatus.OKAY

    def copy(self, segment: BlkifSegment, data: bytearray, to_grant: bool) -> bool:
        """Have Xen copy one segment; whether it did."""
        piece = CopySegment(segment.gref, segment.first_sect * SECTOR_SIZE, memoryview(data), to_grant)
        return self.mapper.copy(self.domain, [piece]) == [GrantStatus.OKAY]

    def close(self) -> None:
        """Unmap the ring, then let go of the event channel."""
        self.region.unmap()
        self.channel.close()
        self.disk.close()


class Device:
    """One disk as the toolstack made it, from one connection to the next."""

    def __init__(self, platform: EmulatedPlatform, store: Xenstore, back: str) -> None:
        self.platform, self.store, self.back = platform, store, back
        self.front = store.read(f"{back}/frontend")
        self.connection: Connection | None = None
        self.publish(state=XenbusState.INITWAIT, hotplug_status="connected")
        store.watch(f"{self.front}/state", "frontend")

    def publish(self, **nodes: int | str) -> None:
        """Write nodes; `_` stands for `-`."""
        for name, value in nodes.items():
            self.store.write(f"{self.back}/{name.replace('_', '-')}", f"{value:d}" if isinstance(value, int) else value)

    def frontend_changed(self) -> None:
        """Connect when the frontend is there, disconnect when it leaves, wait for the next one when it starts over."""
        state = parse_state(self.store.read(f"{self.front}/state", ""))
        if state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
            if self.connection is None:
                self.connection = Connection(self.platform, self.store, self.back)
                sectors = self.connection.disk.size // SECTOR_SIZE
                info = VDISK_READONLY if self.connection.disk.read_only else 0
                self.publish(sectors=sectors, sector_size=SECTOR_SIZE, info=info, state=XenbusState.CONNECTED)
        else:
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            self.publish(state=XenbusState.INITWAIT if state is XenbusState.INITIALISING else XenbusState.CLOSED)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            if self.store.next_event(0 if self.connection else None) is not None:
                self.frontend_changed()
            if self.connection is not None:
                self.connection.serve()


def find_disk(store: Xenstore) -> str | None:
    """The backend's directory of a disk, if there is one."""
    for domid in store.directory(ROOT) if store.exists(ROOT) else []:
        for handle in store.directory(f"{ROOT}/{domid}"):
            return f"{ROOT}/{domid}/{handle}"
    return None


def main() -> None:
    """Wait for a disk, then serve it."""
    platform = EmulatedPlatform(default_run_dir(), DOM0)
    store = platform.xenstore()
    store.watch(ROOT, "disks")
    print("ready", flush=True)
    while (back := find_disk(store)) is None:
        store.next_event(None)
    Device(platform, store, back).run()


if __name__ == "__main__":
    main()
