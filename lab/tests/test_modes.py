"""How Linux's blkfront and our backend move data on real Xen, by each engine: that it arrives, and what it costs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab.backends import Backend
from lab.console import JOB, Console
from lab.guests import create
from lab.machine import Machine
from xenblk.abi import SECTORS_PER_PAGE
from xenblk.vdev import parse_vdev

Say = Callable[[str], None]
SEGMENTS = 64
SEGMENTS_DIRECT = 11
KERNEL = f"xen_blkfront.max_ring_page_order=2 xen_blkfront.max_indirect_segments={SEGMENTS}"
# Rings of one page and of four, and two rings of two pages.
MODES = {
    "map": ["--no-feature-persistent", "--max-queues=1"],
    "persistent": ["--max-ring-page-order=0", "--max-queues=1"],
    "copy": ["--grant-copy", "--max-ring-page-order=1", "--max-queues=2"],
}
RINGS = {"map": (1, 2), "persistent": (1, 0), "copy": (2, 1)}
CASES = [(kind, mode, "native") for kind in ("pv", "pvh") for mode in MODES]
CASES += [("pv", "persistent", "python")]  # test_restarts.py has its other modes
BYTES = 1 << 20
SMALL_READS, LARGE_READS = 100, 4


class Scene:
    """Guests and backends as the tests need them; each is there until the last test has ended."""

    def __init__(self, machine: Machine, undo: ExitStack) -> None:
        self._machine, self._undo = machine, undo
        self._consoles: dict[str, Console] = {}
        self._backends: dict[str, Backend] = {}
        self._letters = iter("bcdefghijklmnop")

    def console(self, kind: str) -> Console:
        if kind not in self._consoles:
            guest = create(self._machine, f"modes-{kind}", JOB, kind, vcpus=2, command_line=KERNEL)
            self._undo.callback(guest.destroy)
            self._consoles[kind] = Console(guest)
        return self._consoles[kind]

    def backend(self, mode: str, engine: str) -> Backend:
        name = f"{mode}-{engine}"
        if name not in self._backends:
            backend = Backend.start(self._machine, *MODES[mode], f"--engine={engine}", backend_type=name)
            self._undo.callback(backend.stop)
            self._backends[name] = backend
        return self._backends[name]

    def disk(self, kind: str, mode: str, engine: str) -> "Disk":
        vdev = f"xvd{next(self._letters)}"
        disk = Disk(self.console(kind), self.backend(mode, engine), vdev, f"/tmp/{kind}-{vdev}.img")
        self._machine.check(f"truncate -s 16M {disk.image}")
        self._undo.callback(self._machine.run, f"rm -f {disk.image}")
        disk.backend.attach(disk.console.guest.domid, vdev, disk.image)
        disk.console.check(f"until [ -b /dev/{vdev} ]; do usleep 50000; done")
        return disk


@dataclass
class Disk:
    """A disk of a guest's, seen from both ends."""

    console: Console
    backend: Backend
    vdev: str
    image: str

    def counters(self) -> dict[str, int]:
        """What its rings have counted together."""
        rings = self.backend.counters(self.console.guest.domid, self.vdev).values()
        return {name: sum(ring[name] for ring in rings) for name in next(iter(rings))}

    def cost(self, command: str) -> dict[str, int]:
        """What is counted while the guest runs a command that succeeds."""
        before = self.counters()
        self.console.check(command)
        return {name: count - before[name] for name, count in self.counters().items()}

    def key(self, name: str) -> str:
        """What the frontend has written; "" for what it has not."""
        path = f"/local/domain/{self.console.guest.domid}/device/vbd/{parse_vdev(self.vdev)}/{name}"
        return self.backend.machine.run(f"xenstore-read {path} 2>/dev/null").output.strip()


@pytest.fixture(scope="module")
def scene(dom0: Machine) -> Iterator[Scene]:
    with ExitStack() as undo:
        yield Scene(dom0, undo)


@pytest.mark.parametrize(("kind", "mode", "engine"), CASES)
def test_data_arrives_and_costs_what_it_should(scene: Scene, say: Say, kind: str, mode: str, engine: str) -> None:
    disk = scene.disk(kind, mode, engine)
    queues, order = RINGS[mode]
    assert int(disk.key("multi-queue-num-queues") or 1) == queues
    assert int(disk.key("ring-page-order") or 0) == order
    _check_data(disk)
    small = disk.cost(f"dd if=/dev/{disk.vdev} of=/dev/null bs=4k count={SMALL_READS} iflag=direct")
    large = disk.cost(f"dd if=/dev/{disk.vdev} of=/dev/null bs={SEGMENTS * 4}k count={LARGE_READS} iflag=direct")
    for what, cost in (("4k", small), (f"{SEGMENTS * 4}k", large)):
        counts = ", ".join(f"{name} {count}" for name, count in cost.items() if count and "notify" not in name)
        say(f"{kind} {mode} {engine}, rings {queues} of {1 << order}, reads of {what}: {counts}")
    _check_cost(small, mode, SMALL_READS, 1)
    _check_cost(large, mode, LARGE_READS, SEGMENTS)


def _check_data(disk: Disk) -> None:
    """What the guest writes is in the image, and it reads what is in the image."""
    written = disk.console.check(
        f"head -c {BYTES} /dev/urandom >/tmp/data;"
        f"dd if=/tmp/data of=/dev/{disk.vdev} bs=64k oflag=direct conv=notrunc 2>/dev/null; md5sum </tmp/data"
    )
    assert disk.backend.machine.check(f"head -c {BYTES} {disk.image} | md5sum").strip() == written
    disk.backend.machine.check(f"head -c {BYTES} /dev/urandom | dd of={disk.image} bs=1M seek=8 conv=notrunc")
    wanted = disk.backend.machine.check(f"dd if={disk.image} bs=1M skip=8 count=1 2>/dev/null | md5sum").strip()
    read = f"dd if=/dev/{disk.vdev} bs=1M skip=8 count=1 iflag=direct 2>/dev/null | md5sum"
    assert disk.console.check(read) == wanted


def _check_cost(cost: dict[str, int], mode: str, reads: int, segments: int) -> None:
    """What reads of so many segments each cost, one read at a time."""
    indirect = int(segments > SEGMENTS_DIRECT)
    pages = reads * (segments + indirect)
    assert (cost["rd_req"], cost["wr_req"], cost["rd_sect"]) == (reads, 0, reads * segments * SECTORS_PER_PAGE)
    if mode == "copy":
        assert (cost["map_pages"], cost["unmap_pages"], cost["copy_pages"]) == (0, 0, pages)
    elif mode == "map":
        assert (cost["map_pages"], cost["unmap_pages"], cost["copy_pages"]) == (pages, pages, 0)
        # As Linux: eleven pages at a time are mapped, all of a request unmapped at once; its indirect page by itself.
        assert cost["map_ops"] == reads * (-(-segments // SEGMENTS_DIRECT) + indirect)
        assert cost["unmap_ops"] == reads * (1 + indirect)
    else:
        # One request at a time needs no more pages than it has, and these stay mapped.
        assert cost["persistent_hits"] + cost["persistent_misses"] == pages
        assert cost["map_pages"] == cost["persistent_misses"] <= segments + indirect
        assert (cost["unmap_pages"], cost["copy_pages"]) == (0, 0)
