"""A block frontend in sixty lines: it writes a page to its disk, reads it back, and says whether it is the same.

    toy_frontend.py DOMID HANDLE

It is the kernel of domain DOMID in the emulated Xen of $XENBLK_RUN_DIR, as a unikernel would be.
"""

import sys

from xenblk.abi import DOM0, PAGE_SIZE, SECTORS_PER_PAGE, Domid, GrantRef
from xenblk.blkif import X86_64, BlkifOp, BlkifRequest, BlkifResponse, BlkifSegment
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import default_run_dir
from xenblk.grants import Page
from xenblk.ring import FrontRing
from xenblk.toolstack import backend_path, frontend_path
from xenblk.xenbus import XenbusState


class ToyFrontend:
    """One disk of this domain, one request at a time."""

    def __init__(self, domid: Domid, handle: int) -> None:
        self.platform = EmulatedPlatform(default_run_dir(), domid)
        self.store = self.platform.xenstore()
        self.front, self.back = frontend_path(domid, handle), backend_path(DOM0, domid, handle)
        self.handle = handle
        page, self.ring_ref = self.granted_page()
        self.ring = FrontRing(page.view, X86_64.entry_size)
        self.channel = self.platform.alloc_unbound(DOM0)

    def granted_page(self) -> tuple[Page, GrantRef]:
        """A page that the backend may read and write."""
        page = self.platform.memory.allocate_page()
        (ref,) = self.platform.grant_table.grant(DOM0, [page.frame])
        return page, ref

    def switch(self, own: XenbusState, awaited: XenbusState, **keys: str | int) -> None:
        """Write keys (`_` stands for `-`) and our state, then wait for the backend's."""
        for name, value in {**keys, "state": int(own)}.items():
            self.store.write(f"{self.front}/{name.replace('_', '-')}", str(value))
        while self.store.read(f"{self.back}/state", "") != str(int(awaited)):
            self.store.next_event(1)

    def connect(self) -> None:
        """Shake hands."""
        self.store.watch(f"{self.back}/state", "backend")
        self.switch(
            XenbusState.INITIALISED,
            XenbusState.CONNECTED,
            ring_ref=self.ring_ref,
            event_channel=self.channel.port,
            protocol=X86_64.protocol,
        )

    def ask(self, operation: BlkifOp, sector: int, ref: GrantRef) -> BlkifResponse:
        """Move a page between the disk and a granted page."""
        segment = BlkifSegment(ref, 0, SECTORS_PER_PAGE - 1)
        self.ring.put(X86_64.pack_request(BlkifRequest(operation, self.handle, 1, sector, 1, (segment,))))
        if self.ring.push():
            self.channel.notify()
        while not self.ring.final_check():
            self.channel.wait(None)
        slot = self.ring.consume()
        assert slot is not None
        return X86_64.parse_response(slot)


def main() -> None:
    """Connect, write, read, compare, leave."""
    frontend = ToyFrontend(Domid(int(sys.argv[1])), int(sys.argv[2]))
    frontend.connect()
    print("connected", flush=True)
    (source, source_ref), (target, target_ref) = frontend.granted_page(), frontend.granted_page()
    source.view[:] = bytes(range(256)) * (PAGE_SIZE // 256)
    written = frontend.ask(BlkifOp.WRITE, 8, source_ref)
    read = frontend.ask(BlkifOp.READ, 8, target_ref)
    found = "the same" if target.view == source.view else "other data"
    print(f"statuses {written.status} and {read.status}, {found}", flush=True)
    frontend.switch(XenbusState.CLOSED, XenbusState.CLOSED)
    frontend.platform.halt()


if __name__ == "__main__":
    main()
