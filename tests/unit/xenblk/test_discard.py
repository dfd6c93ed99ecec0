"""What disks forget, and the sectors that they have."""

import errno
import mmap
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

import xenblk.image
from xenblk._native import ffi, lib
from xenblk.disk import FileDisk, MemoryDisk, open_disk
from xenblk.errors import DiskError
from xenblk.object_disk import ObjectDisk

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file without holes."""
    path = tmp_path / "image"
    path.write_bytes(random.Random("image").randbytes(SIZE))
    return path


def _sizes(dice: random.Random) -> tuple[int, int]:
    offset = dice.randrange(SIZE // 512) * 512
    return offset, min(SIZE - offset, dice.choice([0, 512, 4096, 5 * 512, 100 * 512, SIZE]))


@pytest.mark.parametrize("kind", ["memory", "file", "direct"])
def test_what_is_discarded_is_zero_and_nothing_else(kind: str, image: Path) -> None:
    content, dice = bytearray(image.read_bytes()), random.Random(kind)
    if kind == "memory":
        disk: MemoryDisk | FileDisk = MemoryDisk(SIZE)
        disk.pwrite(content, 0)
    else:
        try:
            disk = FileDisk(image, direct=kind == "direct")
        except DiskError:
            assert kind == "direct"  # not every file system has it
            disk = FileDisk(image)
    for _ in range(60):
        offset, count = _sizes(dice)
        disk.discard(offset, count)
        content[offset : offset + count] = bytes(count)
        assert disk.pread(SIZE, 0) == bytes(content)
        offset, count = _sizes(dice)
        data = dice.randbytes(count)
        disk.pwrite(data, offset)
        content[offset : offset + count] = data
    assert disk.discard_granularity >= 512
    disk.close()


@pytest.mark.parametrize(
    ("start", "count"), [(0, 0), (1, 5), (4095, 2), (100, 20000), (7, 4096), (4096, 8192), (1, 32767)]
)
@pytest.mark.parametrize("secure", [False, True])
def test_memory_from_the_middle_of_a_page(start: int, count: int, secure: bool) -> None:
    memory = mmap.mmap(-1, 32768, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * 32768
    with ffi.from_buffer(memory) as address:
        lib.xb_discard_memory(address + start, count, secure)
    assert memory[:] == b"x" * start + bytes(count) + b"x" * (32768 - start - count)
    memory.close()


def test_memory_is_erased_where_it_stands_and_a_file_does_not_promise_it(image: Path) -> None:
    memory, file = MemoryDisk(SIZE), FileDisk(image)
    memory.pwrite(b"secret".ljust(4096), 4096)
    memory.discard(4096, 4096, secure=True)
    assert memory.pread(4096, 4096) == bytes(4096)
    with pytest.raises(OSError, match="cannot erase"):
        file.discard(0, 4096, secure=True)
    file.close()


def test_a_hole_gives_blocks_back(image: Path) -> None:
    disk = FileDisk(image)
    disk.flush()
    before = os.stat(image).st_blocks
    disk.discard(0, SIZE // 2)
    disk.flush()
    assert os.stat(image).st_size == SIZE
    if disk.discard_granularity:
        assert os.stat(image).st_blocks <= before - SIZE // 2 // 512
    disk.close()


def test_memory_is_given_back() -> None:
    disk = MemoryDisk(64 << 20)
    disk.pwrite(b"x" * disk.size, 0)
    resident = _resident_bytes()
    disk.discard(0, disk.size)
    assert _resident_bytes() < resident - disk.size // 2


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_discard_keeps_to_the_disk_and_its_mode(image: Path) -> None:
    for disk in (MemoryDisk(SIZE), FileDisk(image)):
        for offset, count in [(SIZE, 512), (-512, 512), (0, SIZE + 512)]:
            with pytest.raises(OSError, match="has 1048576 bytes") as refused:
                disk.discard(offset, count)
            assert refused.value.errno == errno.EINVAL
        disk.close()
    read_only = FileDisk(image, read_only=True)
    with pytest.raises(OSError, match="read-only") as refused:
        read_only.discard(0, 512)
    assert refused.value.errno == errno.EROFS
    assert read_only.discard_granularity == 0, "nothing is offered that is refused"
    read_only.close()


def test_a_file_system_without_holes(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_holes = SimpleNamespace(xb_discard_file=lambda *_: -errno.EOPNOTSUPP)
    monkeypatch.setattr(xenblk.image, "lib", no_holes)
    monkeypatch.setattr(xenblk.disk, "lib", no_holes)
    disk = FileDisk(image)
    assert disk.discard_granularity == 0
    with pytest.raises(OSError, match="no hole") as refused:
        disk.discard(0, 512)
    assert refused.value.errno == errno.EOPNOTSUPP
    disk.close()


class Plain:
    """A disk as small as it may be."""

    size = 8192

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def pwrite(self, data: bytes, offset: int) -> None: ...

    def flush(self) -> None: ...


class Rich(Plain):
    sector_size = 4096
    discard_granularity = 8192

    def __init__(self) -> None:
        self.erased: list[tuple[int, int]] = []

    def discard(self, offset: int, count: int) -> None: ...

    def discard_secure(self, offset: int, count: int) -> None:
        self.erased.append((offset, count))


def test_what_an_object_offers() -> None:
    plain, rich = ObjectDisk(Plain()), ObjectDisk(Rich())
    assert (plain.sector_size, plain.discard_granularity) == (512, 0)
    assert (rich.sector_size, rich.discard_granularity) == (4096, 8192)
    rich.discard(0, 4096)
    mine = Rich()
    ObjectDisk(mine).discard(4096, 8192, secure=True)
    assert mine.erased == [(4096, 8192)]
    assert (plain.can_discard_securely, rich.can_discard_securely) == (False, True)
    with pytest.raises(OSError, match="Plain has no method discard"):
        plain.discard(0, 4096)
    with pytest.raises(OSError, match="read-only"):
        ObjectDisk(Rich(), read_only=True).discard(0, 4096)


def test_sectors_of_4096_bytes(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(8192))
    for spec in (str(path), "memory:8192"):
        disk = open_disk(spec, sector_size=4096)
        assert (disk.sector_size, disk.size) == (4096, 8192)
        disk.close()
    path.write_bytes(bytes(8192 + 512))
    for spec in (str(path), "memory:8704"):
        assert open_disk(spec).sector_size == 512
        with pytest.raises(DiskError, match=r"a multiple of 4096 bytes; .* has 8704, which leaves 512"):
            open_disk(spec, sector_size=4096)
    with pytest.raises(DiskError, match="at least 4096"):
        open_disk("memory:512", sector_size=4096)
    for wrong in (0, 1024, 8192):
        with pytest.raises(DiskError, match=f"sectors of 512 or 4096 bytes; the memory disk: {wrong}"):
            open_disk("memory:1M", sector_size=wrong)
