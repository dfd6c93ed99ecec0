"""Disks that libxl gives to our backend in the place of xen-blkback, under a guest of Linux that does not know."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.backends import Backend
from lab.guests import Guest
from lab.machine import Machine

Say = Callable[[str], None]
GUEST_S = 300
ROUND_S = 120
SCRIPT = Path(__file__).resolve().parents[2] / "contrib/block-xenblk"

# Writes and reads back all the time, and says what is wrong; a pause is all that it may see.
JOB = """
n=0
while true; do
    n=$((n + 1))
    seq $n $((n + 20000)) | head -c 65536 >/data
    at=$((16 * (n % 64)))
    dd if=/data of=/dev/xvda bs=4096 seek=$at oflag=direct conv=notrunc 2>/dev/null || echo "WRONG: write $n"
    dd if=/dev/xvda bs=4096 skip=$at count=16 iflag=direct 2>/dev/null | cmp - /data || echo "WRONG: read $n"
    [ $((n % 5)) = 0 ] && echo "round $n."
done
"""

# libxl kills a hotplug script after 40 s, and Xen's own starts some hundred processes: this guest leaves it the CPU.
PATIENT_JOB = """
until [ -b /dev/xvdb ]; do sleep 1; done
echo "second: $(dd if=/dev/xvdb bs=64k iflag=direct 2>/dev/null | md5sum)"
while [ -b /dev/xvdb ]; do sleep 1; done
echo "second is gone"
sleep 1000
"""


@pytest.fixture(scope="module")
def place(dom0: Machine) -> Machine:
    """Domain 0 with our script among Xen's, and images."""
    dom0.put("/etc/xen/scripts/block-xenblk", SCRIPT.read_bytes(), 0o755)
    dom0.check("modprobe loop max_loop=4; mkdir -p /var/run/xen")
    dom0.check("truncate -s 16M /tmp/first.img; head -c 4194304 /dev/urandom >/tmp/second.img")
    return dom0


@pytest.fixture
def serve(place: Machine) -> Iterator[Callable[..., Backend]]:
    """`Backend.start`; after the test none of them is left."""
    backends: list[Backend] = []

    def start(*options: str) -> Backend:
        backends.append(Backend.start(place, *options))
        return backends[-1]

    yield start
    for backend in backends:
        backend.stop()


def next_rounds(guest: Guest) -> int:
    """Wait until the guest has gone on for some rounds; how many it has made so far."""
    done = guest.output().count("round")
    guest.wait(f"round {5 * (done + 2)}.", ROUND_S)
    assert "WRONG" not in guest.output(), guest.output()
    return 5 * (done + 2)


def test_a_guest_of_xl_and_backends_that_come_and_go(
    place: Machine, guest: Callable[..., Guest], serve: Callable[..., Backend], say: Say
) -> None:
    backend = serve()
    disk = "format=raw, vdev=xvda, access=rw, script=block-xenblk, target=/tmp/first.img"
    linux = guest("libxl", JOB, disks=[disk])
    linux.wait("round 5.", GUEST_S)
    say("xl create: the guest reads what it wrote")
    for options in ("--engine python", "--no-feature-persistent --keep-connected"):
        backend.kill()
        backend = serve(options)
        say(f"killed and followed by one with {options}: round {next_rounds(linux)}")
    backend.stop()
    serve("--grant-copy")
    say(f"stopped with --keep-connected and followed by one with --grant-copy: round {next_rounds(linux)}")
    state = f"/local/domain/0/backend/vbd/{linux.domid}/51712/state"
    assert place.check(f"xenstore-read {state}").strip() == "4"
    require_gone(place, linux)
    say("xl destroy: no zombie, no nodes, no journal")


def require_gone(dom0: Machine, linux: Guest) -> None:
    """Destroy a guest: nothing of it is left."""
    linux.destroy()
    assert not linux.is_there()
    assert len(dom0.check("xl list").splitlines()) == 2, dom0.check("xl list")
    assert dom0.run(f"xenstore-exists /local/domain/0/backend/vbd/{linux.domid}").status != 0
    assert dom0.check("ls /run/xenblk/journals") == ""


def test_a_disk_that_xens_own_script_makes_a_device_of(
    place: Machine, guest: Callable[..., Guest], serve: Callable[..., Backend], say: Say
) -> None:
    serve()
    linux = guest("patient", PATIENT_JOB)
    linux.wait("lab: guest is up", GUEST_S)
    place.check(f"xl block-attach {linux.domid} 'format=raw, vdev=xvdb, access=ro, target=/tmp/second.img'")
    linux.wait(f"second: {place.check('md5sum </tmp/second.img').split()[0]}", GUEST_S)
    assert "/tmp/second.img" in place.check("losetup -a")
    place.check(f"xl block-detach {linux.domid} xvdb")
    linux.wait("second is gone", GUEST_S)
    assert place.check("losetup -a") == ""
    say("xl block-attach with Xen's own script, through a loop device, and block-detach")
    require_gone(place, linux)
