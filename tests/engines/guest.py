"""A guest for one engine: a ring, grants on memory of its own, an event channel; no process, no xenstore."""

import mmap
import struct

from engines.world import World

from xenblk.abi import DOM0, PAGE_SIZE, Domid
from xenblk.blkif import Abi, BlkifResponse
from xenblk.emulated.channels import WORDS_BYTES, ChannelTable
from xenblk.ring import BackRing, FrontRing

NR_FRAMES = 64
GUEST = Domid(7)


class Guest:
    """Both ends of a ring, and what a backend needs to serve it.

    `maptrack_entries` bounds what it may map; above 512 there are as many references.
    """

    def __init__(self, abi: Abi, page_order: int = 0, maptrack_entries: int = 512) -> None:
        self.abi = abi
        self.world = World(nr_frames=NR_FRAMES, nr_entries=max(512, maptrack_entries))
        self.mapper = self.world.mapper(arena_pages=max(1024, maptrack_entries), nr_entries=maptrack_entries)
        self.page = memoryview(mmap.mmap(-1, PAGE_SIZE << page_order))
        self.front = FrontRing(self.page, abi.entry_size)
        self.back = BackRing(self.page, abi.entry_size)
        self._table = ChannelTable(bytearray(WORDS_BYTES))
        port, channel = self._table.alloc_unbound(GUEST, DOM0, self)
        own_port, _ = self._table.bind_interdomain(DOM0, GUEST, port, self)
        self.channel = self._table.end_of(channel, 1, own_port, lambda p: self._table.close(DOM0, p, self))

    def put(self, slot: bytes) -> None:
        """A request, not published yet; more than the ring has room for are forgotten."""
        if self.front.free_slots:
            self.front.put(slot)

    def answers(self) -> list[BlkifResponse]:
        """What the backend answered since the last time."""
        answers = []
        while (slot := self.front.consume()) is not None:
            answers.append(self.abi.parse_response(slot))
        return answers

    def set_req_prod(self, index: int) -> None:
        """Publish any index."""
        self.page[:4] = struct.pack("<I", index)

    def ask_for_event(self, ahead: int) -> None:
        """Want a notification of the response that comes so many after the last one."""
        last = int(self.front.native.rsp_cons)
        self.page[12:16] = struct.pack("<I", (last + ahead) & 0xFFFFFFFF)

    def pins(self) -> int:
        """Mappings of the guest's pages."""
        return sum(reads + writes for reads, writes in self.world.pins().values())

    def close(self) -> None:
        """All of it."""
        self.channel.close()
        self._table.close_all(self)
        self.world.close()
