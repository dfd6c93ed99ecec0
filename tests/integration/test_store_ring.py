"""A guest whose xenstore is the ring of its page, as for guests of real Xen: handshake, I/O and the way back."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.toolstack import backend_path, frontend_path
from xenblk.xenbus import XenbusState, parse_state

XVDA = 51712
DISK_BYTES = 4 << 20
SEED = 5


@pytest.fixture
def guest(world: Any) -> Iterator[tuple[Domid, EmulatedPlatform]]:
    """A domain with a disk, and this process as its kernel; it has no other way to xenstore than its ring."""
    world.backend()
    domid = world.attach()
    with contextlib.ExitStack() as stack:
        platform = EmulatedPlatform(world.run_dir, domid, store_ring=True)
        stack.callback(platform.close)
        # Nobody answers at the domain's socket any more: what works after this went over the ring.
        world.directory.xenstore(domid).unlink()
        yield domid, platform


def _verified_io(disk: VirtualDisk) -> None:
    dice = random.Random(SEED)
    expected = bytearray(DISK_BYTES)
    for _ in range(60):
        size = 512 * dice.randrange(1, 200)
        offset = 512 * dice.randrange((DISK_BYTES - size) // 512)
        data = dice.randbytes(size)
        disk.pwrite(data, offset)
        expected[offset : offset + size] = data
    disk.flush()
    found = hashlib.sha256()
    for offset in range(0, DISK_BYTES, 1 << 20):
        found.update(disk.pread(1 << 20, offset))
    assert found.digest() == hashlib.sha256(expected).digest(), f"seed {SEED}"


def _state(world: Any, path: str) -> XenbusState:
    return parse_state(world.store.read(f"{path}/state"))


@pytest.mark.parametrize("feature_persistent", [True, False])
def test_a_disk(world: Any, guest: tuple[Domid, EmulatedPlatform], feature_persistent: bool) -> None:
    domid, platform = guest
    frontend = Blkfront(platform, XVDA, feature_persistent=feature_persistent)
    frontend.connect()
    for path, other in ((frontend_path(domid, XVDA), "frontend"), (backend_path(Domid(0), domid, XVDA), "backend")):
        assert _state(world, path) is XenbusState.CONNECTED, other
        assert world.store.read(f"{path}/feature-persistent") == str(int(other == "backend" or feature_persistent))
    _verified_io(VirtualDisk(frontend))
    assert frontend.persistent == feature_persistent
    counts = world.counts(domid)
    assert (counts["persistent_hits"] > 0) == feature_persistent
    assert (counts["unmap_pages"] == counts["map_pages"]) != feature_persistent
    frontend.close()
    assert world.pins(domid) == 0
    for path in (frontend_path(domid, XVDA), backend_path(Domid(0), domid, XVDA)):
        world.eventually(lambda path=path: _state(world, path) is XenbusState.CLOSED, f"{path} closed")
    assert world.error_of(domid) == ""


def test_one_disk_after_the_other_over_the_same_page(world: Any, guest: tuple[Domid, EmulatedPlatform]) -> None:
    _domid, platform = guest
    for _ in range(3):
        with contextlib.closing(Blkfront(platform, XVDA)) as frontend:
            frontend.connect()
            disk = VirtualDisk(frontend)
            disk.pwrite(b"x" * 4096, 0)
            assert disk.pread(4096, 0) == b"x" * 4096
