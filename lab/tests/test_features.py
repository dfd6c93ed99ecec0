"""What a disk can beside reading and writing, on real Xen: an unmodified guest uses it, domain 0 sees it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.backends import Backend
from lab.console import JOB, Console
from lab.guests import create
from lab.machine import Machine
from xenblk.vdev import parse_vdev

Say = Callable[[str], None]
ROOT = Path(__file__).resolve().parents[2]
FIXED, IMAGE = "/tmp/fixed.img", "/tmp/features.img"
READ_ONLY = f"format=raw, vdev=xvda, access=ro, script=block-xenblk, target={FIXED}"
MIB = 1 << 20
READS = 50


@pytest.fixture(scope="module")
def backend(dom0: Machine) -> Iterator[Backend]:
    backend = Backend.start(dom0, "--max-queues=2")
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def console(dom0: Machine, backend: Backend) -> Iterator[Console]:
    """A guest of two processors with a read-only disk xvda from xl, and a disk xvdb that it may do all with."""
    dom0.put("/etc/xen/scripts/block-xenblk", (ROOT / "contrib/block-xenblk").read_bytes(), 0o755)
    with ExitStack() as undo:
        undo.callback(dom0.check, f"rm {FIXED} {IMAGE}")
        dom0.check(f"head -c 2M /dev/urandom >{FIXED}; head -c 8M /dev/urandom >{IMAGE}")
        guest = create(dom0, "features", JOB, disks=[READ_ONLY], vcpus=2)
        undo.callback(guest.destroy)
        console = Console(guest)
        backend.attach(guest.domid, "xvdb", IMAGE)
        console.check("until [ -b /dev/xvdb ]; do usleep 50000; done")
        yield console


def test_each_processor_has_a_ring(backend: Backend, console: Console, say: Say) -> None:
    before = backend.counters(console.guest.domid, "xvdb")
    path = f"/local/domain/{console.guest.domid}/device/vbd/{parse_vdev('xvdb')}"
    assert backend.machine.check(f"xenstore-read {path}/multi-queue-num-queues").strip() == "2"
    counted = []
    for mask in (1, 2):
        console.check(f"taskset {mask} dd if=/dev/xvdb of=/dev/null bs=4k count={READS} iflag=direct")
        after = backend.counters(console.guest.domid, "xvdb")
        counted.append([after[ring]["rd_req"] - before[ring]["rd_req"] for ring in (0, 1)])
        before = after
    say(f"{READS} reads on each of two processors: rings counted {counted[0]}, then {counted[1]}")
    assert counted == [[READS, 0], [0, READS]]


def test_a_read_only_disk_stays_as_it_is(dom0: Machine, console: Console, say: Say) -> None:
    before = dom0.check(f"md5sum <{FIXED}")
    assert console.check("cat /sys/block/xvda/ro") == "1"
    assert console.check("md5sum </dev/xvda") == before.strip()
    status, said = console.run("dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct")
    say(f"the guest writes to it: {said.strip().splitlines()[0]}")
    assert status != 0
    assert "Operation not permitted" in said
    path = f"/local/domain/0/backend/vbd/{console.guest.domid}/{parse_vdev('xvda')}"
    assert dom0.check(f"xenstore-read {path}/mode").strip() == "r"
    assert dom0.check(f"md5sum <{FIXED}") == before


def test_what_is_discarded_is_a_hole(dom0: Machine, console: Console, say: Say) -> None:
    rest = f"(head -c {MIB} {IMAGE}; tail -c +{5 * MIB + 1} {IMAGE}) | md5sum"
    before, blocks = dom0.check(rest), int(dom0.check(f"stat -c %b {IMAGE}"))
    console.check(f"blkdiscard -o {MIB} -l {4 * MIB} /dev/xvdb")
    less = blocks - int(dom0.check(f"stat -c %b {IMAGE}"))
    say(f"blkdiscard of {4 * MIB} bytes: the image has {less * 512} bytes less")
    assert less * 512 == 4 * MIB
    assert dom0.check(rest) == before
    zeroes = dom0.check(f"head -c {4 * MIB} /dev/zero | md5sum").strip()
    assert console.check("dd if=/dev/xvdb bs=1M skip=1 count=4 iflag=direct 2>/dev/null | md5sum") == zeroes


def test_a_disk_grows_in_use(dom0: Machine, console: Console, say: Say) -> None:
    dom0.check(f"truncate -s 16M {IMAGE}")
    console.check(f"until [ $(cat /sys/block/xvdb/size) = {16 * MIB // 512} ]; do usleep 50000; done")
    said = console.check("dmesg | grep xvdb | tail -n 1")
    say(f"the guest says: {said}")
    assert "capacity change from 16384 to 32768" in said
    write = "dd if=/tmp/data of=/dev/xvdb bs=1M seek=15 oflag=direct"
    written = console.check(f"head -c {MIB} /dev/urandom >/tmp/data && {write} && md5sum </tmp/data")
    assert dom0.check(f"tail -c 1M {IMAGE} | md5sum").strip() == written.splitlines()[-1]


def test_a_file_system_trims_what_it_has_freed(dom0: Machine, console: Console, say: Say) -> None:
    # The file system changes beneath the guest: what it remembers of the disk must be forgotten.
    dom0.check(f"fallocate --punch-hole -o 0 -l 16M {IMAGE} && mkfs.ext4 -q -F -E lazy_itable_init=0 {IMAGE}")
    console.check("blockdev --flushbufs /dev/xvdb && modprobe crc32c_generic && modprobe ext4")
    console.check("mount -t ext4 /dev/xvdb /mnt")
    console.check(f"head -c {4 * MIB} /dev/urandom >/mnt/file && sync && rm /mnt/file && sync")
    before = int(dom0.check(f"stat -c %b {IMAGE}"))
    console.check("fstrim /mnt && umount /mnt")
    less = before - int(dom0.check(f"stat -c %b {IMAGE}"))
    say(f"fstrim after a file of {4 * MIB} bytes: the image has {less * 512} bytes less")
    assert less * 512 >= 4 * MIB
    dom0.check(f"e2fsck -fn {IMAGE}")


def test_a_disk_written_in_python(dom0: Machine, console: Console, say: Say) -> None:
    dom0.put("/tmp/numbered_sectors.py", (ROOT / "examples/numbered_sectors.py").read_bytes())
    numbered = Backend.start(dom0, backend_type="numbered", command="python3 /tmp/numbered_sectors.py")
    numbered.attach(console.guest.domid, "xvdc", "any", "--mode=r")
    console.check("until [ -b /dev/xvdc ]; do usleep 50000; done")
    for number in (7, 8, (1 << 30) // 512 - 1):
        said = console.check(f"dd if=/dev/xvdc bs=512 skip={number} count=1 2>/dev/null | head -n 1")
        say(f"the guest reads sector {number}: {said}")
        assert said == f"sector {number}"
    dom0.check(f"xenblk detach --domid {console.guest.domid} --vdev xvdc")
    console.check("while [ -e /sys/block/xvdc ]; do usleep 50000; done")
    numbered.stop()
