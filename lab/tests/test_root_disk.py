"""A guest's root file system on our backend: what it wrote is there when it boots again, and e2fsck finds nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.backends import Backend
from lab.guests import Guest
from lab.machine import Machine

Say = Callable[[str], None]
SCRIPT = Path(__file__).resolve().parents[2] / "contrib/block-xenblk"
GUEST_S = 300
IMAGE = "/tmp/root.img"
DISK = f"format=raw, vdev=xvda, access=rw, script=block-xenblk, target={IMAGE}"
WRITE = """
set -e
mkdir -p /srv
head -c 1000000 /dev/urandom >/srv/NAME
for number in $(seq 1 50); do echo "NAME $number" >/srv/NAME.$number; done
dd if=/srv/NAME of=/srv/NAME.synced bs=64k conv=fsync 2>/dev/null
cmp /srv/NAME /srv/NAME.synced
cat /srv/NAME* | md5sum | sed 's/^/NAME: /'
"""
READ = """
set -e
[ "$(ls /srv/NAME.* | wc -l)" = 51 ]
cat /srv/NAME* | md5sum | sed 's/^/NAME: /'
"""


def sum_of(said: str, name: str) -> str:
    """The checksum that a guest has printed of what has a name."""
    (line,) = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
    return line.split()[1]


@pytest.fixture(scope="module")
def image(dom0: Machine) -> Iterator[str]:
    dom0.put("/etc/xen/scripts/block-xenblk", SCRIPT.read_bytes(), 0o755)
    dom0.check(f"cp /lab/boot/root.ext4 {IMAGE}")
    yield IMAGE
    dom0.check(f"rm {IMAGE}")


def boot(dom0: Machine, guest: Callable[..., Guest], kind: str, engine: str, job: str) -> str:
    """Boot a guest from the image, served by one engine, until it has shut down; what it said."""
    backend = Backend.start(dom0, f"--engine={engine}")
    try:
        booted = guest(f"root-{kind}-{engine}", job, kind=kind, disks=[DISK], command_line="root=/dev/xvda")
        said = booted.wait("lab: job ended with", GUEST_S)
        dom0.check(f"while xl domid {booted.name} 2>/dev/null; do sleep 0.2; done", GUEST_S)
    finally:
        backend.stop()
    assert "lab: root is /dev/xvda" in said
    assert "lab: job ended with 0" in said
    return said


def test_a_root_file_system_outlives_guests_and_backends(
    dom0: Machine, say: Say, guest: Callable[..., Guest], image: str
) -> None:
    first = boot(dom0, guest, "pv", "native", WRITE.replace("NAME", "first"))
    check = dom0.run(f"e2fsck -fn {image} 2>&1")
    say(f"PV, native engine; then e2fsck -fn: {check.output.splitlines()[-1]}")
    assert check.status == 0
    second = boot(dom0, guest, "pvh", "python", READ.replace("NAME", "first") + WRITE.replace("NAME", "second"))
    assert sum_of(second, "first") == sum_of(first, "first")
    check = dom0.run(f"e2fsck -fn {image} 2>&1")
    say(f"PVH, Python engine: the same {sum_of(first, 'first')}; then e2fsck -fn: {check.output.splitlines()[-1]}")
    assert check.status == 0
    dom0.check(f"modprobe loop && modprobe ext4 && mkdir -p /tmp/root && mount -o loop,ro {image} /tmp/root")
    try:
        inside = dom0.check("cat /tmp/root/srv/second* | md5sum").split()[0]
    finally:
        dom0.check("umount /tmp/root")
    assert inside == sum_of(second, "second")
