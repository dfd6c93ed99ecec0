"""xenblk inside a Python program: disks of any kind, errors with the right errno."""

import errno
import functools
import os
import threading
import time
from pathlib import Path

import pytest

import xenblk
from xenblk.abi import DOM0, Domid
from xenblk.blkback.device import Vbd
from xenblk.blkback.statistics import read_statistics
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import DiskError, HostError, UsageError
from xenblk.testing import eventually
from xenblk.toolstack import backend_path
from xenblk.xenbus import XenbusState


class Counting:
    """A disk of a user's own."""

    size = 64 << 10

    def __init__(self) -> None:
        self.data = bytearray(self.size)
        self.calls: list[str] = []

    def pread(self, count: int, offset: int) -> bytes:
        self.calls.append("pread")
        return bytes(self.data[offset : offset + count])

    def pwrite(self, data: bytes, offset: int) -> None:
        self.calls.append("pwrite")
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.calls.append("flush")


@pytest.fixture(scope="module", params=["native", "python"])
def host(request: pytest.FixtureRequest) -> object:
    """A host whose disks have either frontend engine."""
    with xenblk.Host() as host:
        host.attach = functools.partial(host.attach, engine=request.param)
        yield host


def test_a_python_object_is_a_disk(host: xenblk.Host) -> None:
    mine = Counting()
    with host.attach(mine) as disk:
        assert disk.size == 64 << 10
        assert disk.pwrite(bytearray(b"b" * 1024), 512) == 1024
        assert disk.pread(2048, 0) == bytes(512) + b"b" * 1024 + bytes(512)
        disk.flush()
        buffer = bytearray(512)
        assert disk.preadinto(buffer, 1024) == 512
        assert buffer == b"b" * 512
    assert mine.data[512:1536] == b"b" * 1024
    assert mine.calls == ["pwrite", "pread", "flush", "pread"]


def test_reads_end_at_the_end_and_writes_do_not_cross_it(host: xenblk.Host) -> None:
    with host.attach(xenblk.MemoryDisk(4096)) as disk:
        assert len(disk.pread(8192, 512)) == 3584
        assert disk.pread(512, 4096) == b""
        with pytest.raises(OSError, match="end beyond the disk") as caught:
            disk.pwrite(bytes(1024), 3584)
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("count", "offset"), [(1, 0), (512, 1), (513, 512), (512, -512)])
def test_alignment(host: xenblk.Host, count: int, offset: int) -> None:
    with host.attach(xenblk.MemoryDisk(1 << 20)) as disk:
        with pytest.raises(OSError, match="multiples of 512") as caught:
            disk.pread(count, offset)
        assert caught.value.errno == errno.EINVAL


def test_a_read_only_disk(host: xenblk.Host) -> None:
    with host.attach(xenblk.MemoryDisk(4096), mode="r") as disk:
        assert disk.read_only
        with pytest.raises(OSError, match="read-only") as caught:
            disk.pwrite(bytes(512), 0)
        assert caught.value.errno == errno.EROFS
        disk.flush()


def test_a_disk_that_fails_is_an_io_error(host: xenblk.Host) -> None:
    class Broken(Counting):
        def pread(self, count: int, offset: int) -> bytes:
            raise OSError(errno.ENOMEDIUM, "no disk in the drive")

    with host.attach(Broken()) as disk:
        with pytest.raises(OSError, match="status -1") as caught:
            disk.pread(512, 0)
        assert caught.value.errno == errno.EIO
        disk.pwrite(bytes(512), 0)


@pytest.mark.parametrize("feature_persistent", [True, False])
def test_large_and_many(host: xenblk.Host, tmp_path: Path, feature_persistent: bool) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 << 20))
    with host.attach(str(image), "xvdb", feature_persistent=feature_persistent) as disk:
        data = bytes(range(256)) * (3 << 12)
        disk.pwrite(data, 1 << 20)
        assert disk.pread(len(data), 1 << 20) == data
        threads = [threading.Thread(target=disk.pwrite, args=(bytes([n]) * 4096, n * 4096)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [disk.pread(4096, n * 4096)[0] for n in range(8)] == list(range(8))
    assert image.read_bytes()[1 << 20 : (1 << 20) + len(data)] == data


def test_a_disk_has_the_frontends_options(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    sizes: list[int] = []
    with (
        xenblk.Host(xenblk.BackendParameters(max_queues=2)) as host,
        host.attach(
            str(image), nr_queues=2, ring_page_order=1, max_indirect_segments=0, on_resize=sizes.append
        ) as disk,
        host.attach("memory:1M", feature_persistent=False, trusted=False, poll_us=0) as other,
    ):
        queues = disk.frontend._xenbus.queues
        assert [ring.sring.nr_ents for ring in queues.rings] == [64, 64]
        disk.pwrite(bytes(20 * 4096), 0)
        counts = read_statistics(
            RunDirectory(host.run_dir).counters, DOM0, disk.frontend._platform.domid, disk.frontend.handle
        )
        assert counts["wr_req"] == 2, "20 pages without indirect requests"
        assert not other.frontend.persistent
        other.pwrite(b"o" * 512, 0)
        assert other.pread(512, 0) == b"o" * 512
        os.truncate(image, 2 << 20)
        eventually(lambda: sizes == [2 << 20], "the new size is told")


def test_options_that_cannot_be_leave_nothing(host: xenblk.Host) -> None:
    before = host._control.call("status")[0]["domains"]
    with pytest.raises(UsageError, match="nr_queues is 1 to 256, not 0"):
        host.attach("memory:1M", nr_queues=0)
    with pytest.raises(UsageError, match="protocol is one of x86_64-abi, x86_32-abi, not 'arm-abi'"):
        host.attach("memory:1M", protocol="arm-abi")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        host.attach("memory:1M", queues=2)
    assert host._control.call("status")[0]["domains"] == before


def test_what_is_no_disk_is_refused(host: xenblk.Host, tmp_path: Path) -> None:
    with pytest.raises((DiskError, HostError), match="there is no disk image"):
        host.attach(str(tmp_path / "missing.img"))
    with pytest.raises((DiskError, HostError), match="pread"):
        host.attach(object())


def test_a_closed_disk_says_so(host: xenblk.Host) -> None:
    disk = host.attach(xenblk.MemoryDisk(4096))
    disk.close()
    disk.close()
    with pytest.raises(OSError, match="closed"):
        disk.pread(512, 0)


def test_hosts_side_by_side() -> None:
    with (
        xenblk.Host() as one,
        xenblk.Host(xenblk.BackendParameters(grant_copy=True)) as other,
        one.attach(xenblk.MemoryDisk(4096)) as a,
        other.attach(xenblk.MemoryDisk(4096)) as b,
    ):
        a.pwrite(b"a" * 512, 0)
        b.pwrite(b"b" * 512, 0)
        assert (a.pread(512, 0), b.pread(512, 0)) == (b"a" * 512, b"b" * 512)
    assert not one.run_dir.exists()
    assert not other.run_dir.exists()


def test_regression_a_closed_disk_can_be_connected_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend lets go of the event channel before it writes Closed; who came in between was turned away."""
    disconnect = Vbd._disconnect

    def and_then_dawdle(vbd: Vbd) -> None:
        disconnect(vbd)
        time.sleep(0.1)

    monkeypatch.setattr(Vbd, "_disconnect", and_then_dawdle)
    with xenblk.Host() as host, host.attach("memory:64K") as disk:
        frontend = disk.frontend
        frontend.close()
        path = backend_path(Domid(0), frontend._platform.domid, frontend.handle)
        assert host._store.read(f"{path}/state") == str(int(XenbusState.CLOSED))
