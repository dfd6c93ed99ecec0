"""Our frontend, with either engine, on doubles of the backends that there are."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from xenblk.abi import SECTOR_SIZE
from xenblk.blkfront import Blkfront, VirtualDisk
from xenblk.blkif import BlkifOp
from xenblk.engines import ENGINES
from xenblk.errors import XenblkError
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.doubles import FRONTENDS
from xenblk.harness.doubles.backend_quirks import QUIRKS
from xenblk.harness.doubles.backends import BACKENDS, serving_double
from xenblk.harness.wire.deadline import DeadlineError, patience, wait_for
from xenblk.processes import HostProcess
from xenblk.toolstack import attach

XVDA = 51712


@pytest.fixture(scope="module")
def xen() -> Iterator[EmulatedXen]:
    """A Xen; each test has its disks served by another backend."""
    with HostProcess() as host, EmulatedXen(host.run_dir) as entered:
        yield entered


@contextlib.contextmanager
def disk(xen: EmulatedXen, engine: str = "native", mode: str = "w", **options: Any) -> Iterator[VirtualDisk]:
    """A connected disk of a guest of its own; nothing of either is left."""
    with xen.guest() as platform:
        try:
            attach(xen.store, platform.domid, XVDA, "memory:1M", mode)
            frontend = Blkfront(platform, XVDA, engine=engine, **options)
            try:
                frontend.connect()
                yield VirtualDisk(frontend)
            finally:
                frontend.close()
                assert xen.pins(platform.domid) == 0
        finally:
            xen.remove(platform.domid, XVDA)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BACKENDS)
def test_our_frontend_reads_what_it_wrote(xen: EmulatedXen, name: str, engine: str) -> None:
    dice = random.Random(name)
    with BACKENDS[name](xen.run_dir), disk(xen, engine) as virtual:
        assert virtual.size == 1 << 20
        assert virtual.frontend.persistent is (name == "linux")
        model = bytearray(virtual.size)
        for _ in range(30):
            count = dice.choice([1, 5, 8, 88, 200])
            first = dice.randrange(virtual.size // SECTOR_SIZE - count)
            data = dice.randbytes(count * SECTOR_SIZE)
            virtual.pwrite(data, first * SECTOR_SIZE)
            model[first * SECTOR_SIZE : first * SECTOR_SIZE + len(data)] = data
            assert virtual.pread(len(data), first * SECTOR_SIZE) == data
        assert virtual.pread(virtual.size, 0) == model


@pytest.mark.parametrize("name", BACKENDS)
def test_larger_rings(xen: EmulatedXen, name: str) -> None:
    with BACKENDS[name](xen.run_dir), disk(xen, ring_page_order=4) as virtual:
        order = min(4, QUIRKS[name].max_ring_page_order)
        domid = xen.store.directory("/local/domain/0/backend/vbd")[0]
        assert xen.store.read(f"/local/domain/{domid}/device/vbd/{XVDA}/ring-page-order") == str(order)
        bios = [virtual.frontend.submit(BlkifOp.READ, n * 512, memoryview(bytearray(512))) for n in range(600)]
        while any(bio.pieces_left for bio in bios):
            virtual.frontend.poll()
        assert not any(bio.error for bio in bios)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_read_only_disk_stays_as_it_is(xen: EmulatedXen, name: str) -> None:
    with BACKENDS[name](xen.run_dir), disk(xen, mode="r") as virtual:
        assert virtual.read_only
        with pytest.raises(OSError, match="read-only"):
            virtual.pwrite(bytes(512), 0)
        assert virtual.pread(512, 0) == bytes(512)


def test_qemu_does_not_tell_a_frontend_that_it_refuses_large_sectors(
    xen: EmulatedXen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "xenblk.doubles")
    with serving_double("qemu", xen.run_dir, sector_size=4096), xen.guest() as platform:
        attach(xen.store, platform.domid, XVDA, "memory:1M")
        frontend = FRONTENDS["netbsd"](platform, XVDA)
        with patience(0.5), pytest.raises(DeadlineError, match="it is InitWait"):
            frontend.connect()
        wait_for(lambda: "not supported by frontend" in caplog.text, "the refusal in the backend's log")
        xen.remove(platform.domid, XVDA)
        with pytest.raises(XenblkError):  # its device is gone
            frontend.close()


def test_freebsd_counts_sectors_of_its_own(xen: EmulatedXen) -> None:
    with serving_double("freebsd", xen.run_dir, sector_size=4096), disk(xen):
        domid = xen.store.directory("/local/domain/0/backend/vbd")[0]
        assert xen.store.read(f"/local/domain/0/backend/vbd/{domid}/{XVDA}/sectors") == "256"
