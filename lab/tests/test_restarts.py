"""Backends that come and go under xl's disks, while a guest of Linux verifies all that it reads and writes."""

import operator
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.backends import Backend
from lab.console import JOB, Console
from lab.guests import create
from lab.machine import Machine
from lab.programs import program_archive
from xenblk._native import ffi, lib
from xenblk.vdev import parse_vdev

Say = Callable[[str], None]
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "lab/tests/programs/verify.c"
FILES = "/lab/boot/guest.cpio /run/lab/verify.cpio"
# What a ring was connected with is its next backend's, too; how the data moves is each one's own affair.
# Grants that nobody uses stay mapped: what is mapped before and after something else is the same.
COMMON = ("--max-queues=2", "--persistent-grant-unused-seconds=0")
SUCCESSORS = (
    "--engine=python",
    "--no-feature-persistent",
    "--grant-copy",
    "--engine=python --grant-copy",
    "--poll-us=0 --max-persistent-grants=16",
    "--engine=python --no-feature-persistent",
    "--max-queues=1 --max-indirect-segments=0",
    "",
)
KILLS = 10
PAUSE_S_MAX = 1.5
DISKS = ("xvda", "xvdb")
WORKERS = 2
DISK_BYTES = 2 << 20
ROUNDS_S = 300
VDEV_C = parse_vdev("xvdc")
SAVED = "/tmp/restarts.saved"


def image(disk: str) -> str:
    """The file in domain 0 that a disk is of."""
    return f"/tmp/restarts-{disk}.img"


def line(disk: str) -> str:
    """A disk as xl's configuration and xl block-attach have it."""
    return f"format=raw, vdev={disk}, access=rw, script=block-xenblk, target={image(disk)}"


class Scene:
    """A guest with its disks, and the backend that serves them now."""

    def __init__(self, machine: Machine, backend: Backend) -> None:
        self.machine, self.backend = machine, backend
        self.console: Console

    def close(self) -> None:
        """No backend serves it any longer."""
        self.backend.stop()

    def work(self) -> None:
        """Let the guest work on its disks."""
        self.console.check("rm -f /tmp/rounds.*; " + " ".join(f"verify {disk} {WORKERS} &" for disk in DISKS))

    def verify(self) -> list[int]:
        """Every worker makes a whole round, and none has seen anything wrong; how many rounds each has made."""
        before = after = self.rounds()
        deadline_s = time.monotonic() + ROUNDS_S
        # The round that a worker is in may be all but done.
        while min(map(operator.sub, after, before)) < 2:
            assert time.monotonic() < deadline_s, f"no progress: {before}, {after}"
            assert "WRONG" not in self.console.guest.output(), self.console.guest.output()
            after = self.rounds()
        return after

    def rounds(self) -> list[int]:
        """How many rounds each worker has made."""
        files = [f"/tmp/rounds.{disk}" for disk in DISKS]
        there = " ".join(f"until [ -s {file} ]; do usleep 20000; done;" for file in files)
        return list(map(int, self.console.check(f"{there} od -An -v -td8 {' '.join(files)}").split()))

    def require_equal(self) -> None:
        """Let the workers end: the disk, what the guest knows of it and the image are the same bytes."""
        self.console.check("killall verify; wait")
        self.machine.check("sync")
        for disk in DISKS:
            read = f"dd if=/dev/{disk} bs=64k iflag=direct 2>/dev/null | md5sum; md5sum </tmp/shadow.{disk}"
            found = self.console.check(read)
            written = self.machine.check(f"md5sum <{image(disk)}").strip()
            assert found.split("\n") == [written, written], disk
        assert "WRONG" not in self.console.guest.output(), self.console.guest.output()


@pytest.fixture(scope="module")
def scene(dom0: Machine) -> Iterator[Scene]:
    """xvda without persistent grants, xvdb with them, both of the native engine, rings for two processors."""
    dom0.put("/etc/xen/scripts/block-xenblk", (ROOT / "contrib/block-xenblk").read_bytes(), 0o755)
    dom0.put("/run/lab/verify.cpio", program_archive(PROGRAM))
    dom0.check("xl sched-credit2 -d Domain-0 -w 4096")  # the guest would leave domain 0 little of the one CPU
    with ExitStack() as undo:
        undo.callback(dom0.check, "xl sched-credit2 -d Domain-0 -w 256")
        for disk in (*DISKS, "xvdc"):
            dom0.check(f"head -c {DISK_BYTES} /dev/urandom >{image(disk)}")
            undo.callback(dom0.run, f"rm -f {image(disk)}")
        scene = Scene(dom0, Backend.start(dom0, "--no-feature-persistent --keep-connected", *COMMON))
        undo.callback(scene.close)
        guest = create(dom0, "restarts", JOB, disks=[line("xvda")], vcpus=2, memory_mb=128, files=FILES)
        undo.callback(guest.destroy)
        scene.console = Console(guest)
        scene.console.check("until [ -b /dev/xvda ]; do usleep 20000; done")
        scene.backend.stop()
        scene.backend = Backend.start(dom0, *COMMON)
        dom0.check(f"xl block-attach restarts '{line('xvdb')}'")
        scene.console.check("until [ -b /dev/xvdb ]; do usleep 20000; done")
        yield scene


def unanswered(machine: Machine) -> int:
    """How many requests the backend that was killed had in hand, as its journals say."""
    machine.check("rm -rf /lab/shared/journals; cp -r /run/xenblk/journals /lab/shared/journals")
    files = [path.read_bytes()[64:] for path in (machine.shared / "journals").iterdir()]
    return sum(
        entry.state == lib.XB_JOURNAL_TAKEN
        for file in files
        for entry in ffi.from_buffer("struct xb_journal_entry[]", file)
    )


def test_ten_kills_at_any_moment(scene: Scene, say: Say) -> None:
    seed = random.randrange(1 << 32)
    say(f"seed {seed}")
    moments = random.Random(seed)
    scene.work()
    in_hand = []
    for number in range(KILLS):
        scene.verify()
        scene.machine.check(f"sleep {moments.uniform(0, PAUSE_S_MAX):.3f}")
        scene.backend.kill()
        in_hand.append(unanswered(scene.machine))
        options = SUCCESSORS[number % len(SUCCESSORS)]
        scene.backend = Backend.start(scene.machine, *COMMON, options)
        say(f"kill {number + 1}: {in_hand[-1]} requests in hand, followed by {options or 'one of no options'}")
    rounds = sum(scene.verify())
    scene.require_equal()
    # Domain 0 has one CPU, and whoever kills is not the backend: few kills find it at work.
    say(f"{rounds} rounds, {sum(in_hand)} requests in hand at kills; disks, guest's knowledge and images are equal")


def held(scene: Scene, number: int) -> dict[str, str]:
    """What the backend and domain 0 hold; of nodes, those of the disk of this number."""
    process = f"/proc/{scene.backend.pid}"
    commands = {
        "mappings": f"grep -c gntdev {process}/maps || true",
        "files": f"ls {process}/fd | wc -l",
        "threads": f"ls {process}/task | wc -l",
        "channels": "lsevtchn 0 | wc -l",
        "nodes": f"xenstore-ls -f | grep -E '/{number}( |/)|/error/' || true",
        "journals": "ls /run/xenblk/journals",
    }
    return {name: scene.machine.check(command) for name, command in commands.items()}


def xl(machine: Machine, words: str) -> tuple[str, float]:
    """What an xl command says that succeeds and has not waited in vain for anything, and how long it took."""
    start_s = time.monotonic()
    said = machine.check(f"xl -v {words} 2>&1")
    assert not re.search("timed out|timeout", said, re.IGNORECASE), said
    return said, time.monotonic() - start_s


def test_xl_attaches_lists_and_detaches(scene: Scene, say: Say) -> None:
    before = held(scene, VDEV_C)
    _, attach_s = xl(scene.machine, f"block-attach restarts '{line('xvdc')}'")
    scene.console.check("until [ -b /dev/xvdc ]; do usleep 20000; done")
    wanted = scene.machine.check(f"md5sum <{image('xvdc')}").strip()
    assert scene.console.check("dd if=/dev/xvdc bs=64k iflag=direct 2>/dev/null | md5sum") == wanted
    listed, list_s = xl(scene.machine, "block-list restarts")
    # Number, backend's domain, handle, state, event channel, ring, backend's directory.
    rows = [row.split() for row in listed.splitlines() if "/backend/vbd/" in row]
    assert [row[:4:3] for row in rows] == [[str(parse_vdev(disk)), "4"] for disk in (*DISKS, "xvdc")], listed
    assert held(scene, VDEV_C)["mappings"] != before["mappings"]
    _, detach_s = xl(scene.machine, "block-detach restarts xvdc")
    scene.console.check("while [ -b /dev/xvdc ]; do usleep 20000; done")
    assert held(scene, VDEV_C) == before
    say(f"block-attach {attach_s:.1f} s, block-list {list_s:.1f} s, block-detach {detach_s:.1f} s; nothing is left")


def test_a_guest_is_saved_and_restored_onto_another_backend(scene: Scene, say: Say) -> None:
    guest, old = scene.console.guest, scene.console.guest.domid
    scene.work()
    scene.verify()
    _, save_s = xl(scene.machine, f"save restarts {SAVED}")
    require_nothing_of(scene, old)
    scene.backend.stop()
    scene.backend = Backend.start(scene.machine, *COMMON, "--engine=python")
    _, restore_s = xl(scene.machine, f"restore {SAVED}")
    scene.machine.check(f"rm {SAVED}")
    guest.domid = int(scene.machine.check("xl domid restarts"))
    scene.verify()
    scene.require_equal()
    say(
        f"save {save_s:.1f} s, restore {restore_s:.1f} s; under I/O, onto the Python engine; disks and images are equal"
    )


def test_a_guest_is_destroyed_under_io(scene: Scene, say: Say) -> None:
    scene.work()
    scene.verify()
    _, destroy_s = xl(scene.machine, "destroy restarts")
    require_nothing_of(scene, scene.console.guest.domid)
    say(f"destroy {destroy_s:.1f} s; no domain, node, journal or mapping is left")


def require_nothing_of(scene: Scene, domid: int) -> None:
    """Of a domain that has ended there is no zombie, and of its disks nothing, in Xen, the store or the backend."""
    machine = scene.machine
    assert len(machine.check("xl list").splitlines()) == 2, machine.check("xl list")
    assert machine.run(f"xenstore-exists /local/domain/0/backend/vbd/{domid}").status != 0
    assert machine.check("ls /run/xenblk/journals") == ""
    assert machine.check(f"grep -c gntdev /proc/{scene.backend.pid}/maps || true").strip() == "0"
