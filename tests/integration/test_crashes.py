"""Processes that die: what they held is released, whoever is left notices and goes on."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.blkif import BlkifOp
from xenblk.errors import PeerGoneError
from xenblk.xenbus import XenbusState

FRONTEND = """
import sys, time
from pathlib import Path
from xenblk.blkfront import Blkfront
from xenblk.blkif import BlkifOp
from xenblk.emulated.platform import EmulatedPlatform

frontend = Blkfront(EmulatedPlatform(Path(sys.argv[1]), int(sys.argv[2])), 51712)
frontend.connect()
print("connected", flush=True)
if sys.argv[3] == "hold":
    time.sleep(60)
buffers = [memoryview(bytearray(8192)) for _ in range(32)]
round = 0
while True:
    for n, buffer in enumerate(buffers):
        frontend.submit(BlkifOp.WRITE if n % 2 else BlkifOp.READ, n * 8192, buffer)
    left = 32 - len(frontend.poll(0))
    round += 1
    if round < 3:
        print("submitted", flush=True)
    while left:
        done = frontend.poll()
        if not done:
            sys.exit("the disk is lost")
        left -= len(done)
"""

DYING_FRONTENDS = """
import itertools, os, signal, sys
from pathlib import Path
from xenblk.abi import DOM0
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.toolstack import attach
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

run_dir, image = Path(sys.argv[1]), sys.argv[2]
call = XenstoreTransaction._call

# A guest of its own, from its first node to its last; whatever it writes or watches is a step, and it may die at one.
def live(steps):
    control = ControlClient(RunDirectory(run_dir).control)
    domid = control.call("create", domid=None)[0]["domid"]
    with Xenstore(str(RunDirectory(run_dir).xenstore(DOM0))) as store:
        attach(store, domid, 51712, image)

    def counted(self, what, function, *args):
        nonlocal steps
        result = call(self, what, function, *args)
        steps -= not what.startswith(("read", "directory"))
        if steps == 0:
            os.write(1, f"{domid} {what}\\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    platform = EmulatedPlatform(run_dir, domid)
    XenstoreTransaction._call = counted
    frontend = Blkfront(platform, 51712)
    frontend.connect()
    with VirtualDisk(frontend) as disk:
        disk.pwrite(bytes(512), 0)
    os.write(1, f"{domid} closed\\n".encode())

for steps in itertools.count(1):
    child = os.fork()  # before there is any thread
    if not child:
        live(steps)
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
"""


def test_a_frontend_killed_with_32_requests_in_flight(world: Any, script: Callable[..., Any]) -> None:
    backend = world.backend()
    victim, neighbour = world.attach(), world.attach()
    disk = world.disk(neighbour)
    disk.pwrite(b"n" * 4096, 0)
    frontend = script(FRONTEND, str(world.run_dir), str(victim), "run")
    assert frontend.readline() == "connected"
    assert frontend.readline() == "submitted"
    assert frontend.readline() == "submitted"
    backend.signal(signal.SIGSTOP)
    time.sleep(0.1)  # the frontend fills the ring and waits: 32 requests are in flight and stay there
    frontend.close()
    backend.signal(signal.SIGCONT)
    world.eventually(lambda: not world.store.exists(f"/local/domain/0/backend/vbd/{victim}"), "the device is removed")
    assert world.pins(victim) == 0
    counts = world.counts(victim)
    assert counts["map_pages"] == counts["unmap_pages"] > 0
    assert counts["persistent_current"] == 0
    assert disk.pread(4096, 0) == b"n" * 4096
    assert world.pins(neighbour) > 0
    assert not world.store.exists(f"/local/domain/{victim}")


@pytest.mark.parametrize(
    "options", [(), ("--no-feature-persistent",), ("--max-persistent-grants", "20"), ("--grant-copy",)]
)
def test_frontends_killed_at_any_moment(world: Any, script: Callable[..., Any], options: tuple[str, ...]) -> None:
    world.backend(*options)
    seed = 7
    rng = random.Random(seed)
    for _ in range(4):
        domid = world.attach()
        frontend = script(FRONTEND, str(world.run_dir), str(domid), "run")
        assert frontend.readline() == "connected"
        time.sleep(rng.random() * 0.1)
        frontend.close()
        world.eventually(lambda d=domid: not world.store.exists(f"/local/domain/0/backend/vbd/{d}"), "it is removed")
        world.eventually(lambda d=domid: world.pins(d) == 0, f"nothing pinned, seed {seed}")
        counts = world.counts(domid)
        assert counts["map_pages"] == counts["unmap_pages"], f"seed {seed}"
        assert counts["persistent_current"] == 0


def test_a_frontend_killed_between_requests(world: Any, script: Callable[..., Any]) -> None:
    world.backend()
    domid = world.attach()
    frontend = script(FRONTEND, str(world.run_dir), str(domid), "hold")
    assert frontend.readline() == "connected"
    assert world.backend_state(domid) is XenbusState.CONNECTED
    frontend.close()
    world.eventually(lambda: not world.store.exists(f"/local/domain/0/backend/vbd/{domid}"), "the device is removed")
    assert world.pins(domid) == 0


def held(world: Any, pid: int) -> list[Any]:
    """What a backend has of its frontends: threads, descriptors, mapped files, journals, nodes."""
    mappings = Path(f"/proc/{pid}/maps").read_text().count("memfd:xenblk")
    journals = sorted(world.directory.journals.iterdir())
    nodes = world.store.directory("/local/domain/0/backend/vbd")
    return [*(len(os.listdir(f"/proc/{pid}/{what}")) for what in ("task", "fd")), mappings, journals, nodes]


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_frontend_killed_at_each_step_of_its_handshake(
    world: Any, script: Callable[..., Any], image: Path, engine: str
) -> None:
    """Each is the next one's predecessor on the same image, and the last one is not killed."""
    backend = world.backend("--engine", engine)
    neighbour = world.disk(world.attach())
    assert neighbour.pread(512, 0) == bytes(512)
    before = held(world, backend.pid)
    frontends, steps = script(DYING_FRONTENDS, str(world.run_dir), str(image)), []
    while not steps or steps[-1] != "closed":
        domid, what = frontends.readline().split(" ", 1)
        steps.append(what.removeprefix(f"write /local/domain/{domid}/device/vbd/51712/"))
        path = f"/local/domain/0/backend/vbd/{domid}"
        world.eventually(lambda path=path: not world.store.exists(path), f"the device is removed: {what}")
        domains = world.control.call("status")[0]["domains"]
        assert int(domid) not in [domain["domid"] for domain in domains], f"{what}: the domain is dead and gone"
        counts = world.counts(int(domid))
        assert counts["map_pages"] == counts["unmap_pages"], what
        assert counts["persistent_current"] == 0, what
        assert neighbour.pread(512, 0) == bytes(512)
    assert steps.count("state") == 5, "Initialising, Initialised, Connected, Closing, Closed"
    assert {"ring-ref", "event-channel", "protocol", "feature-persistent"} <= set(steps)
    assert steps.count("commit a transaction") == 6, "each state, and all keys at once"
    world.eventually(lambda: held(world, backend.pid) == before, "the backend holds what it held before")


@pytest.mark.parametrize("options", [(), ("--no-feature-persistent",)])
def test_a_killed_backend_is_a_clear_error(world: Any, options: tuple[str, ...]) -> None:
    backend = world.backend(*options)
    domid = world.attach()
    frontend = world.frontend(domid)
    buffers = [memoryview(bytearray(4096)) for _ in range(32)]
    done = 0
    for n, buffer in enumerate(buffers):
        frontend.submit(BlkifOp.WRITE, n * 4096, buffer)
    while done < 32:
        done += len(frontend.poll())
    backend.signal(signal.SIGSTOP)
    bios = {frontend.submit(BlkifOp.WRITE, n * 4096, buffer) for n, buffer in enumerate(buffers)}
    assert frontend.poll(0.05) == []
    backend.kill()
    failed = []
    while len(failed) < 32:
        failed += frontend.poll(20)
    assert set(failed) == bios
    assert {bio.error.errno for bio in failed} == {errno.ENODEV}
    assert "vanished" in str(failed[0].error)
    with pytest.raises(OSError, match="vanished"):
        frontend.submit(BlkifOp.READ, 0, buffers[0])
    world.eventually(lambda: world.pins(domid) == 0, "the host released the dead backend's pins")
    counts = world.counts(domid)
    assert counts["map_pages"] == counts["unmap_pages"] > 0
    assert counts["persistent_current"] == 0


def test_a_new_backend_serves_the_next_boot(world: Any, image: Any) -> None:
    backend = world.backend()
    domid = world.attach(str(image))
    disk = world.disk(domid)
    disk.pwrite(b"kept" * 128, 512)
    disk.flush()
    backend.kill()
    disk.close()
    disk.frontend._platform.halt()
    disk.frontend._platform.close()
    world.backend()
    world.eventually(lambda: world.backend_state(domid) is XenbusState.CLOSED, "the new backend found the device")
    again = world.disk(domid)
    assert again.pread(512, 512) == b"kept" * 128


def _is_lost(frontend: Blkfront) -> bool:
    try:
        frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(512)))
    except OSError as e:
        return e.errno == errno.ENODEV
    return any(bio.error is not None and bio.error.errno == errno.ENODEV for bio in frontend.poll(1))


def test_a_host_that_dies_is_a_clear_error(world: Any, script: Callable[..., Any]) -> None:
    backend = world.backend()
    domid = world.attach()
    frontend = world.frontend(domid)
    source = f"import os, signal; os.kill({world.host_pid}, signal.SIGKILL); print('killed', flush=True)"
    assert script(source).readline() == "killed"
    assert backend.wait() == 1
    world.eventually(lambda: _is_lost(frontend), "the frontend noticed")
    with pytest.raises(PeerGoneError):
        world.store.read("/local")


def test_many_connections_leave_nothing_behind(world: Any) -> None:
    world.backend()
    domid = world.attach()
    for round_ in range(25):
        platform = world.boot(domid)
        frontend = Blkfront(platform, 51712, feature_persistent=round_ % 2 == 0)
        frontend.connect()
        with VirtualDisk(frontend) as disk:
            disk.pwrite(bytes([round_]) * 512, 0)
            assert disk.pread(512, 0) == bytes([round_]) * 512
        platform.halt()
        platform.close()
        assert world.pins(domid) == 0
    (status,) = [d for d in world.control.call("status")[0]["domains"] if d["domid"] == domid]
    assert status["ports"] == []
    assert status["state"] == "halted"
    counts = world.counts(domid)
    assert counts["map_pages"] == counts["unmap_pages"]
