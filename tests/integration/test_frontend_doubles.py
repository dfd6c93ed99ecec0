"""Frontends as others write them read and write a disk of ours, each over its own way of shaking hands."""

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenblk.engines import ENGINES
from xenblk.errors import BlkifPeerError
from xenblk.harness.conform.backend.run import serving
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.doubles import FRONTENDS
from xenblk.harness.wire.deadline import wait_for
from xenblk.vdev import parse_vdev

XVDA = parse_vdev("xvda")
SIZE = 1 << 20


@pytest.fixture(scope="module", params=ENGINES)
def xen(request: pytest.FixtureRequest) -> Iterator[EmulatedXen]:
    """A Xen that our backend serves."""
    with serving(request.param) as run_dir, EmulatedXen(run_dir) as found:
        yield found


def pre_written(name: str) -> dict[str, str]:
    """What libxl writes for guests whose frontend does not say its layout."""
    return {} if FRONTENDS[name].args[0].writes_protocol else {"protocol": "x86_64-abi"}


@pytest.mark.parametrize("name", FRONTENDS)
def test_reads_what_it_wrote(xen: EmulatedXen, name: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, SIZE)
    dice = random.Random(name)
    model = bytearray(SIZE)
    with xen.guest() as platform:
        xen.attach(platform.domid, XVDA, {"params": str(image)}, pre_written(name))
        frontend = FRONTENDS[name](platform, XVDA)
        frontend.connect()
        assert (frontend.size, frontend.read_only) == (SIZE, False)
        for _ in range(15):
            offset = dice.randrange(0, SIZE, 512)
            data = dice.randbytes(dice.randrange(512, min(SIZE - offset, 300_000) + 1, 512))
            frontend.write(offset, data)
            model[offset : offset + len(data)] = data
        frontend.flush()
        assert image.read_bytes() == model
        assert frontend.read(0, SIZE) == model
        with pytest.raises(OSError, match="Input/output error"):
            frontend.read(SIZE, 512)
        frontend.discard(4096, 4096)
        assert frontend.read(4096, 4096) in (bytes(4096), model[4096:8192])
        assert frontend.read(8192, SIZE - 8192) == model[8192:]
        frontend.close()
        assert xen.pins(platform.domid) == 0
    xen.remove(platform.domid, XVDA)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_frontend_that_nobody_names_the_layout_of_has_the_backends_default(engine: str) -> None:
    assert not FRONTENDS["unikraft"].args[0].writes_protocol
    with (
        serving(engine, "--default-protocol", "x86_64-abi") as run_dir,
        EmulatedXen(run_dir) as xen,
        xen.guest() as platform,
    ):
        xen.attach(platform.domid, XVDA, {"params": "memory:1M"}, {})
        frontend = FRONTENDS["unikraft"](platform, XVDA)
        frontend.connect()
        data = random.Random(engine).randbytes(100 * 512)
        frontend.write(4096, data)
        assert frontend.read(4096, len(data)) == data
        assert frontend.read(0, 4096) == bytes(4096)
        frontend.close()


@pytest.mark.parametrize("name", FRONTENDS)
def test_cannot_write_a_read_only_disk(xen: EmulatedXen, name: str) -> None:
    with xen.guest() as platform:
        xen.attach(platform.domid, XVDA, {"params": "memory:64K", "mode": "r"}, pre_written(name))
        frontend = FRONTENDS[name](platform, XVDA)
        frontend.connect()
        assert frontend.read_only
        with pytest.raises(OSError, match="Input/output error"):
            frontend.write(0, b"x" * 512)
        assert frontend.read(0, 512) == bytes(512)
        frontend.close()
    xen.remove(platform.domid, XVDA)


def test_firmware_hands_over_to_the_system_that_it_starts(xen: EmulatedXen) -> None:
    """One device, three frontends one after the other, without the toolstack."""
    data = os.urandom(5000 // 512 * 512)
    with xen.guest() as platform:
        xen.attach(platform.domid, XVDA, {"params": "memory:64K"}, {})
        for at, name in enumerate(("edk2", "mini-os", "linux")):
            frontend = FRONTENDS[name](platform, XVDA)
            frontend.connect()
            if at:
                assert frontend.read(0, len(data)) == data
            frontend.write(0, data)
            frontend.close()
    xen.remove(platform.domid, XVDA)


def test_what_is_kept_and_what_is_not(xen: EmulatedXen) -> None:
    """Linux's pages stay mapped between its requests, edk2's do not."""
    pins = {}
    for name in ("linux", "edk2"):
        with xen.guest() as platform:
            xen.attach(platform.domid, XVDA, {"params": "memory:64K"}, {})
            frontend = FRONTENDS[name](platform, XVDA)
            frontend.connect()
            before = xen.pins(platform.domid)
            frontend.write(0, b"x" * 8192)
            pins[name] = xen.pins(platform.domid) - before
            frontend.close()
        xen.remove(platform.domid, XVDA)
    assert pins == {"linux": 2, "edk2": 0}


def test_unikraft_gives_up_without_the_nodes_that_it_needs(xen: EmulatedXen) -> None:
    with xen.guest() as platform:
        xen.attach(platform.domid, XVDA, {"params": "memory:64K"}, pre_written("unikraft"))
        frontend = FRONTENDS["unikraft"](platform, XVDA)
        back = f"/local/domain/0/backend/vbd/{platform.domid}/{XVDA}"
        wait_for(lambda: xen.store.read(f"{back}/state", "") == "2", "InitWait")
        frontend.quirks = dataclasses.replace(frontend.quirks, reads=("feature-elephant",))
        with pytest.raises(BlkifPeerError, match="feature-elephant"):
            frontend.connect()
        frontend.close()
    xen.remove(platform.domid, XVDA)
