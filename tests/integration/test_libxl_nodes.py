"""Disks as libxl makes and removes them: its nodes, its permissions, what it waits for and what it does then."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk import toolstack
from xenblk.abi import DOM0, Domid
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.toolstack import DiskOptions, backend_path, frontend_path
from xenblk.xenbus import XenbusState
from xenblk.xenstore.client import XenstoreTransaction

XVDA = 51712
OWN_SCRIPT = Path(__file__).parents[2] / "contrib" / "block-xenblk"

Script = Callable[[str], None]

_XENSTORE_READ = """#!{python}
import sys
from xenblk.xenstore.client import Xenstore
with Xenstore({socket!r}) as store:
    value = store.read(sys.argv[1], "")
print(value)
sys.exit(not value)
"""


class Libxl:
    """The order of libxl__device_disk_add and libxl__initiate_device_generic_remove, with a hotplug script's name."""

    def __init__(self, world: Any, script: str) -> None:
        self.world = world
        self.script = script
        self.domid = Domid(world.control.call("create", domid=None)[0]["domid"])
        self.front, self.back = frontend_path(self.domid, XVDA), backend_path(DOM0, self.domid, XVDA)

    def make_nodes(self, target: str, mode: str = "w", physical_device: str | None = None) -> None:
        """All nodes of both ends at once."""

        def make(transaction: XenstoreTransaction) -> None:
            toolstack._make_nodes(transaction, self.domid, XVDA, target, mode, DOM0, DiskOptions())
            transaction.write(f"{self.back}/frontend", self.front)
            transaction.write(f"{self.back}/type", "phy")
            transaction.write(f"{self.back}/specification", "xen")
            transaction.write(f"{self.back}/script", self.script)
            if physical_device is not None:
                transaction.write(f"{self.back}/physical-device", physical_device)

        self.world.store.transact(make)

    def attach(self, target: str, run_script: Script, mode: str = "w") -> None:
        """As `xl block-attach`: make the nodes, wait for exactly InitWait, then run the script."""
        self.make_nodes(target, mode)
        self.await_state(XenbusState.INITWAIT)
        run_script("add")

    def ask_to_go(self, force: bool = False) -> None:
        """The transaction that begins a removal; `force` is that of a domain that is destroyed."""

        def ask(transaction: XenstoreTransaction) -> None:
            if force:
                transaction.rm(self.front)
            transaction.write(f"{self.back}/online", "0")
            transaction.write(f"{self.back}/state", str(int(XenbusState.CLOSING)))

        self.world.store.transact(ask)

    def finish_removal(self) -> None:
        """Wait for exactly Closed, which must stand there, and remove both directories."""
        self.await_state(XenbusState.CLOSED)
        for path in (self.front, self.back):
            if self.world.store.exists(path):
                self.world.store.rm(path)

    def await_state(self, state: XenbusState) -> None:
        """Wait for the backend; libxl fails if the node is gone."""

        def arrived() -> bool:
            shown = self.world.store.read(f"{self.back}/state")
            return bool(shown == str(int(state)))

        self.world.eventually(arrived, f"backend {state.name}")

    def read(self, key: str) -> str:
        """A node of the backend's, empty if there is none."""
        return str(self.world.store.read(f"{self.back}/{key}", ""))


def nothing(_action: str) -> None:
    """A toolstack that is told to run no hotplug scripts."""


def read_request(frontend: Any, number: int) -> BlkifRequest:
    ref, _page = frontend.page()
    return BlkifRequest(BlkifOp.READ, 0, number, 0, 1, (BlkifSegment(ref, 0, 0),))


def connect(raw_frontend: Callable[..., Any], xl: Libxl) -> Any:
    frontend = raw_frontend(xl.domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.switch(XenbusState.CONNECTED)
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    return frontend


def closes(frontend: Any) -> None:
    """What Linux's blkfront does on seeing Closing."""
    frontend.await_backend(XenbusState.CLOSING)
    frontend.switch(XenbusState.CLOSED)


@pytest.fixture
def own_script(world: Any, tmp_path: Path) -> Callable[[str, str], Any]:
    """Runs our hotplug script as libxl does; its xenstore-read is one of the test's own."""
    tool = tmp_path / "bin" / "xenstore-read"
    tool.parent.mkdir()
    tool.write_text(_XENSTORE_READ.format(python=sys.executable, socket=str(world.directory.xenstore(DOM0))))
    tool.chmod(0o755)

    def run(action: str, back: str) -> Any:
        env = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "XENBUS_PATH": back}
        return subprocess.run([OWN_SCRIPT, action], check=False, env=env, capture_output=True, text=True, timeout=60)

    return run


def test_our_own_script_waits_for_the_backend(
    world: Any, raw_frontend: Callable[..., Any], image: Path, own_script: Any
) -> None:
    world.backend()
    xl = Libxl(world, "/etc/xen/scripts/block-xenblk")

    def script(action: str) -> None:
        ran = own_script(action, xl.back)
        assert (ran.returncode, ran.stderr) == (0, "")

    xl.attach(str(image), script)
    assert xl.read("hotplug-status") == "connected"
    frontend = connect(raw_frontend, xl)
    xl.ask_to_go()
    closes(frontend)
    xl.finish_removal()
    script("remove")
    assert world.pins(xl.domid) == 0


def test_our_own_script_says_why_there_is_no_disk(world: Any, own_script: Any) -> None:
    world.backend()
    xl = Libxl(world, "block-xenblk")
    xl.make_nodes("/no/such/image")
    xl.await_state(XenbusState.INITWAIT)
    ran = own_script("add", xl.back)
    assert ran.returncode == 1
    assert "there is no disk image" in ran.stderr
    xl.ask_to_go()
    xl.finish_removal()


def test_what_another_script_prepares_is_what_is_served(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """`params` may name nothing that could be opened; the script says what device it became, and that all is well."""
    world.backend()
    xl = Libxl(world, "/etc/xen/scripts/block-iscsi")

    def script(_action: str) -> None:
        assert xl.read("hotplug-status") == "", "the status is the script's to write"
        world.store.write(f"{xl.back}/physical-device-path", str(image))
        world.store.write(f"{xl.back}/hotplug-status", "connected")

    xl.attach("iqn=iqn.2026-11.example:disk,portal=198.51.100.1", script)
    frontend = connect(raw_frontend, xl)
    assert xl.read("sectors") == "8192"
    xl.ask_to_go()
    closes(frontend)
    xl.finish_removal()


def test_a_guest_that_does_not_answer_is_left_without_its_help(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """`xl destroy` pauses the guest, removes its directory, and waits for the backend alone."""
    world.backend()
    xl = Libxl(world, "block-xenblk")
    xl.attach(str(image), nothing)
    connect(raw_frontend, xl)
    xl.ask_to_go(force=True)
    xl.finish_removal()
    assert world.pins(xl.domid) == 0


def test_a_guest_without_a_driver_lets_its_disk_go(world: Any, image: Path) -> None:
    world.backend()
    xl = Libxl(world, "block-xenblk")
    xl.attach(str(image), nothing)
    xl.ask_to_go()
    xl.finish_removal()


def test_a_domain_that_ends_without_a_toolstack_leaves_nothing_mapped(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """Nodes in libxl's name stay until libxl removes them, and are not taken for a new device meanwhile."""
    world.backend("--feature-persistent")
    xl = Libxl(world, "block-xenblk")
    xl.attach(str(image), nothing)
    frontend = connect(raw_frontend, xl)
    elsewhere = world.attach()  # an event at another device lets the backend look for new ones
    frontend.crash()
    world.eventually(lambda: world.pins(xl.domid) == 0, "everything is unmapped")
    xl.await_state(XenbusState.CLOSED)
    world.disk(elsewhere).pread(512, 0)
    assert xl.read("state") == str(int(XenbusState.CLOSED))
    xl.finish_removal()


def test_a_dead_domain_whose_nodes_are_all_there_still(world: Any, raw_frontend: Callable[..., Any]) -> None:
    """Xen's xenstore removes nothing when a domain dies; that the domain is known no longer has to be enough."""
    world.backend("--feature-persistent")
    xl = Libxl(world, "block-xenblk")
    xl.front = "/kept/device/vbd/51712"
    xl.make_nodes("memory:1M")
    frontend = raw_frontend(xl.domid)
    frontend.path = xl.front
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.switch(XenbusState.CONNECTED)
    assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    frontend.crash()
    world.eventually(lambda: world.pins(xl.domid) == 0, "everything is unmapped")
    xl.await_state(XenbusState.CLOSED)


@pytest.mark.parametrize("sees_it_go", [True, False])
def test_a_disk_that_is_attached_again(
    world: Any, raw_frontend: Callable[..., Any], image: Path, sees_it_go: bool
) -> None:
    world.backend()
    xl = Libxl(world, "block-xenblk")
    xl.attach(str(image), nothing)
    xl.ask_to_go()
    xl.await_state(XenbusState.CLOSED)

    def remove(transaction: XenstoreTransaction) -> None:
        transaction.rm(xl.front)
        transaction.rm(xl.back)

    world.store.transact(remove)
    if sees_it_go:
        world.attach()
    xl.attach(str(image), nothing)
    connect(raw_frontend, xl)


def test_a_backend_of_another_type_beside_the_first(world: Any, image: Path) -> None:
    """Each serves its own disks, wherever the other one looks."""
    world.backend()
    first = world.attach("memory:1M")
    world.backend("--backend-type", "xenblk", "--engine", "python")
    second = Domid(world.control.call("create", domid=None)[0]["domid"])
    toolstack.attach(world.store, second, XVDA, str(image), options=DiskOptions(backend_type="xenblk"))
    back = backend_path(DOM0, second, XVDA, "xenblk")
    assert world.store.read(f"{frontend_path(second, XVDA)}/backend") == back
    assert world.store.get_perms(back) == ["n0", f"r{second}"]
    assert world.store.get_perms(f"{back}/params") == ["n0", f"r{second}"]
    assert world.store.get_perms(frontend_path(second, XVDA)) == [f"n{second}", "r0"]
    assert world.disk(second).size == image.stat().st_size
    assert world.disk(first).size == 1 << 20
    toolstack.detach(world.store, second, XVDA)
    assert world.store.directory("/local/domain/0/backend/xenblk") == []
