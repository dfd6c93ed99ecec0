"""Our frontend in domain 0 on other people's backends: Linux's xen-blkback, and QEMU's."""

import json
from collections.abc import Callable, Iterator

import pytest

from lab.foreign import ForeignBackend, linux_backend, qemu_backend
from lab.guests import Guest
from lab.machine import Machine

Say = Callable[[str], None]
IMAGE_BYTES = 8 << 20
IMAGE = "/run/front.img"
ROUNDS = 8
GUEST_S = 300
NOTHING = dict.fromkeys(("rd_req", "wr_req", "f_req", "ds_req", "oo_req", "rd_sect", "wr_sect"), 0)


@pytest.fixture(scope="module", params=[linux_backend, qemu_backend], ids=["linux", "qemu"])
def backend(dom0: Machine, request: pytest.FixtureRequest) -> Iterator[ForeignBackend]:
    """Each backend in turn, with a file of random bytes as domain 0's own xvda."""
    with request.param(dom0) as foreign:
        dom0.check(f"head -c {IMAGE_BYTES} /dev/urandom >{IMAGE}")
        dom0.check("rm -f /run/xenblk/counters/vbd-0-0-*")  # of a backend of ours that had a disk of this number
        foreign.attach(0, "xvda", IMAGE)
        yield foreign
        foreign.detach(0, "xvda")
        assert dom0.run("xenstore-exists /local/domain/0/device/vbd/51712").status != 0


def test_copy_in_and_out(dom0: Machine, backend: ForeignBackend, say: Say) -> None:
    dom0.check(f"head -c {IMAGE_BYTES} /dev/urandom >/run/in.img")
    for source, destination in (("/run/in.img", "vbd:xvda"), ("vbd:xvda", "/run/out.img")):
        said = dom0.check(f"xenblk copy {source} {destination} --platform xen 2>/dev/null").splitlines()
        say(f"{backend.name}: {said[-1]}")
    sums = dom0.check(f"sha256sum </run/in.img; sha256sum <{IMAGE}; sha256sum </run/out.img").splitlines()
    assert len(set(sums)) == 1
    assert sums[0].split()[0] in said[-1]


BENCHES = (
    "--engine native --rw randread --iodepth 1 --io-size 1M",
    "--engine native --rw randwrite --iodepth 32 --io-size 4M",
    "--engine native --rw randrw --iodepth 32 --io-size 4M --numjobs 2 --ring-page-order 2",
    "--engine native --rw randrw --bs 256K --iodepth 4 --io-size 8M --max-indirect-segments 64",
    "--engine python --rw randread --iodepth 32 --io-size 1M",
    "--engine python --rw randrw --iodepth 1 --io-size 512K",
)


def test_verified_loads(program: Callable[..., str], backend: ForeignBackend, say: Say) -> None:
    lines = [
        f"bench --platform xen --json {options}"
        for options in BENCHES
        if backend.has_queues or "numjobs" not in options
    ]
    results = list(map(json.loads, program("commands.py", *lines).splitlines()))
    assert len(results) == len(lines)
    for line, result in zip(lines, results, strict=True):
        say(f"{backend.name}: {line.partition('--json ')[2]}: {result['ios']} verified, {result['iops']:.0f} a second")
        assert result["verified"]
        assert "rd_req" not in result["counters"], "who knows what another one counts?"


CONNECTIONS: tuple[dict[str, object], ...] = (
    {"engine": "native"},
    {"engine": "python", "max_indirect_segments": 0},
    {"engine": "native", "feature_persistent": False, "ring_page_order": 2, "nr_queues": 2},
    {"engine": "python", "feature_persistent": False},
)


def test_what_is_asked_and_what_is_granted(program: Callable[..., str], backend: ForeignBackend, say: Say) -> None:
    results = program("front.py", IMAGE, str(ROUNDS), *map(json.dumps, CONNECTIONS)).splitlines()
    for options, said in zip(CONNECTIONS, map(json.loads, results), strict=True):
        say(f"{backend.name}: {options}: {said['asked']}, pages granted {said['granted']}")
        assert said["persistent"] == (backend.is_persistent and options.get("feature_persistent", True))
        assert said["ring pages"] == 1 << int(str(options.get("ring_page_order", 0)))
        assert said["queues"] == (options.get("nr_queues", 1) if backend.has_queues else 1)
        assert said["granted"]["closed"] == 0
        if said["persistent"]:
            assert said["granted"]["at the end"] == said["granted"]["warm"]
        if backend.backend_type == "vbd":
            assert said["counted"] == {**NOTHING, **said["asked"]}, "Linux counts what we asked for"


# The guest's first process: domain 0's programs, and of Linux's drivers none but what a process needs to be a frontend.
PYTHON_GUEST = """#!/bin/bash
export PATH=/usr/sbin:/usr/bin PYTHONPATH=/lab/python HOME=/root LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for folder in /run /tmp; do mount -t tmpfs tmpfs $folder; done
modprobe -a xen-evtchn xen-gntalloc
head -c 2097152 /dev/urandom >/tmp/in
xenblk copy /tmp/in vbd:xvda 2>/dev/null
echo "lab: job ended with $?"
busybox poweroff -f
"""


def test_a_guest_without_a_driver(dom0: Machine, guest: Callable[..., Guest], say: Say) -> None:
    with linux_backend(dom0):
        dom0.check(f"truncate -s 2M {IMAGE}")
        dom0.check("cd / && busybox find lab/python usr/bin/xenblk | busybox cpio -o -H newc >/run/python.cpio")
        python = guest(
            "python",
            PYTHON_GUEST,
            disks=[f"format=raw, vdev=xvda, access=rw, target={IMAGE}"],
            memory_mb=512,
            command_line="rdinit=/job",
            files="/lab/boot/dom0.cpio /run/python.cpio",
        )
        said = python.wait("lab: job ended with 0", GUEST_S)
        (ours,) = [line for line in said.splitlines() if "read back, the same" in line]
        say(f"a guest, on xen-blkback: {ours}")
        dom0.check("while xl domid python 2>/dev/null; do sleep 0.2; done; rm /run/python.cpio")
        assert dom0.check(f"sha256sum <{IMAGE}").split()[0] in ours
