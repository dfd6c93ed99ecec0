"""The mapping side on real Xen: Linux's gntdev and evtchn, and our backend under Linux's own xen-blkfront."""

from collections.abc import Callable, Iterator

import pytest

from lab.backends import Backend
from lab.machine import Machine

Say = Callable[[str], None]
IMAGE, DATA = "/tmp/mapping.img", "/tmp/mapping.data"
# Most pages have no place among those that stay mapped: what neither test_modes.py nor test_restarts.py has.
OPTIONS = ("--log-stats", "--max-persistent-grants=8")


def test_pages_that_others_grant_and_events(program: Callable[..., str], say: Say) -> None:
    said = program("mapping.py")
    for line in said.splitlines():
        say(line)
    assert "a row is mapped and unmapped as one" in said
    assert "events arrive, and are one until they are taken" in said


@pytest.fixture(scope="module")
def data(dom0: Machine) -> Iterator[None]:
    """Linux's frontend, and 4 MB for it to write."""
    dom0.check(f"modprobe xen-blkfront && head -c 4M /dev/urandom >{DATA}")
    yield
    dom0.check(f"modprobe -r xen-blkfront && rm {DATA}")


@pytest.fixture
def backend(dom0: Machine, data: None) -> Iterator[Backend]:
    """Our backend with a disk of 8 MB that Linux has as /dev/xvdb."""
    dom0.check(f"head -c 8M /dev/urandom >{IMAGE}")
    backend = Backend.start(dom0, *OPTIONS)
    backend.attach(0, "xvdb", IMAGE)
    dom0.check("until test -b /dev/xvdb; do sleep .2; done")
    yield backend
    dom0.check("xenblk detach --domid 0 --vdev xvdb")
    backend.stop()
    dom0.check(f"rm {IMAGE}")


def sums(dom0: Machine, *commands: str) -> set[str]:
    return {dom0.check(f"{command} | sha256sum").split()[0] for command in commands}


def test_linuxs_frontend_on_our_backend(dom0: Machine, say: Say, backend: Backend) -> None:
    read = "dd if=/dev/xvdb iflag=direct bs=256k status=none"
    assert len(sums(dom0, f"cat {IMAGE}", read)) == 1
    dom0.check(f"dd if={DATA} of=/dev/xvdb oflag=direct bs=64k status=none")
    dom0.check(f"dd if={DATA} of=/dev/xvdb oflag=direct bs=512k seek=8 conv=fsync status=none")
    say(dom0.check("dmesg | grep 'blkfront: xvdb' | tail -1").strip())
    assert len(sums(dom0, f"cat {DATA} {DATA}", f"cat {IMAGE}", read, "cat /dev/xvdb")) == 1
    dom0.check("blkdiscard /dev/xvdb")
    assert len(sums(dom0, f"cat {IMAGE}", "head -c 8M /dev/zero")) == 1
    say(dom0.check("xenblk statistics --json").strip())
    say(backend.log().splitlines()[-1])
