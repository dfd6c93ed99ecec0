"""In domain 0: our frontend on a disk that is attached, by rounds of operations in flight together, each checked.

Usage: front.py IMAGE ROUNDS OPTIONS..., with the file that the backend serves, and for each connection the options of
Blkfront as JSON. A line of JSON for each says what was asked for, and what became of the grants.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path

from xenblk.abi import DOM0, PAGE_SIZE, SECTOR_SIZE
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.blkfront import Blkfront
from xenblk.blkif import BlkifOp
from xenblk.toolstack import frontend_path
from xenblk.vdev import parse_vdev
from xenblk.xen.platform import XenPlatform

VDEV = "xvda"
SIZES = (512, 4096, 12288, 45056, 65536, 131072, 262144)
DEPTH = 6
DEADLINE_S = 60
STATISTICS = Path(f"/sys/bus/xen-backend/devices/vbd-{DOM0}-{parse_vdev(VDEV)}/statistics")
DISCARD_BYTES = 1 << 20


class Front:
    """A connected disk, what it holds, and what was asked for, by the names of Linux's backend."""

    def __init__(self, platform: XenPlatform, image: Path, options: dict[str, object]) -> None:
        self._platform, self._store = platform, platform.xenstore()
        self.disk = Blkfront(platform, parse_vdev(VDEV), **options)  # type: ignore[arg-type]
        self.disk.connect(DEADLINE_S)
        self.model = bytearray(image.read_bytes())
        self.asked: Counter[str] = Counter()
        self._dice = random.Random(1)
        self._ours = [self.disk.allocate(2 * SIZES[-1]) for _ in range(DEPTH)]
        self._max_piece = PAGE_SIZE * max(11, min(int(str(options.get("max_indirect_segments", 32))), self._indirect()))

    def own_node(self, key: str) -> str:
        """One of ours; empty if there is none."""
        return self._store.read(f"{frontend_path(self._platform.domid, self.disk.handle)}/{key}", "")

    def node(self, key: str) -> str:
        """One of the backend's; empty if it has none."""
        return self._store.read(f"{self.own_node('backend')}/{key}", "")

    def _indirect(self) -> int:
        return int(self.node("feature-max-indirect-segments") or 0)

    def warm_up(self) -> None:
        """The most that is ever in flight."""
        for slot in range(DEPTH):
            self._submit(BlkifOp.READ, slot * SIZES[-1], self._ours[slot][: SIZES[-1]])
        self._finish(DEPTH)

    def round(self) -> None:
        """Reads and writes side by side: in the domain's memory, at any place in a page, and elsewhere."""
        reads = []
        for number, slot in enumerate(self._dice.sample(range(len(self.model) // SIZES[-1]), DEPTH)):
            size = self._dice.choice(SIZES)
            offset = slot * SIZES[-1] + self._dice.randrange(0, SIZES[-1] - size + 1, SECTOR_SIZE)
            at = self._dice.choice((0, 512, 4096))
            buffer = self._dice.choice((self._ours[number][at : at + size], memoryview(bytearray(size))))
            if self._dice.random() < 0.5:
                buffer[:] = self.model[offset : offset + size] = self._dice.randbytes(size)
                self._submit(BlkifOp.WRITE, offset, buffer)
            else:
                reads.append(self._submit(BlkifOp.READ, offset, buffer))
        self._finish(DEPTH)
        for bio in reads:
            assert bio.buffer is not None
            wanted = self.model[bio.offset : bio.offset + bio.buffer.nbytes]
            assert bytes(bio.buffer) == wanted, f"{bio.buffer.nbytes} bytes at {bio.offset}"

    def flush(self) -> None:
        """See that what was written is durable."""
        self.disk.submit(BlkifOp.FLUSH_DISKCACHE)
        self.asked["f_req"] += 1
        self._finish(1)

    def discard(self) -> None:
        """Forget the end of the disk. A loop device, and a file, read as zeros there."""
        start = len(self.model) - DISCARD_BYTES
        self.disk.submit(BlkifOp.DISCARD, start, nr_bytes=DISCARD_BYTES)
        self.asked["ds_req"] += 1
        self._finish(1)
        self.model[start:] = bytes(DISCARD_BYTES)

    def close(self) -> None:
        """Give everything back."""
        for buffer in self._ours:
            self.disk.free(buffer)
        self.disk.close(DEADLINE_S)
        self._store.close()

    def _submit(self, op: BlkifOp, offset: int, buffer: memoryview) -> Bio:
        name = "rd" if op == BlkifOp.READ else "wr"
        self.asked[f"{name}_sect"] += buffer.nbytes // SECTOR_SIZE
        self.asked[f"{name}_req"] += -(-buffer.nbytes // self._max_piece)
        return self.disk.submit(op, offset, buffer)

    def _finish(self, count: int) -> None:
        while count:
            done = self.disk.poll(DEADLINE_S)
            assert done, f"{count} operations are not done in {DEADLINE_S} s"
            for bio in done:
                if bio.error is not None:
                    raise bio.error
            count -= len(done)


def exercise(platform: XenPlatform, image: Path, rounds: int, options: dict[str, object]) -> dict[str, object]:
    """One connection; at its end the image is what was written."""
    front = Front(platform, image, options)
    front.warm_up()
    granted = {"warm": platform.memory.granted_pages}
    for _ in range(rounds):
        front.round()
    discards, flushes = (front.node(f"feature-{name}") == "1" for name in ("discard", "flush-cache"))
    if discards:
        front.discard()
    if flushes:
        front.flush()
    granted["at the end"] = platform.memory.granted_pages
    said = {
        "persistent": front.disk.persistent,
        "queues": front.disk.nr_queues,
        "ring pages": 1 << int(front.own_node("ring-page-order") or 0),
        "asked": front.asked,
        "counted": {path.name: int(path.read_text()) for path in STATISTICS.glob("*")},
        "granted": granted,
    }
    front.close()
    granted["closed"] = platform.memory.granted_pages
    assert image.read_bytes() == front.model, "the disk is not what was written"
    return said


def main() -> None:
    """Each set of options in turn."""
    platform = XenPlatform()
    for options in sys.argv[3:]:
        print(json.dumps(exercise(platform, Path(sys.argv[1]), int(sys.argv[2]), json.loads(options))), flush=True)
    platform.close()


main()
