"""Disks of memory, of a file and of a Python object: the same data comes back, and what cannot be says why."""

import errno
import fcntl
import os
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import xenblk.image
from xenblk.disk import Disk, FileDisk, MemoryDisk, open_disk, parse_size
from xenblk.errors import DiskError
from xenblk.object_disk import ObjectDisk

SIZE = 64 * 512


class PythonDisk:
    """The least that counts as a disk."""

    def __init__(self, size: int = SIZE) -> None:
        self.data = bytearray(size)
        self.size = size
        self.flushes = 0

    def pread(self, count: int, offset: int) -> bytes | memoryview:
        return memoryview(self.data)[offset : offset + count]

    def pwrite(self, data: bytes, offset: int) -> None:
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushes += 1


def _has_direct(folder: Path) -> bool:
    """Whether files in `folder` can be opened with O_DIRECT; asked of the kernel, not of the code under test."""
    probe = folder / "probe"
    probe.touch()
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.fixture
def direct_image(tmp_path: Path) -> Path:
    if not _has_direct(tmp_path):
        pytest.skip(f"the file system of {tmp_path} has no O_DIRECT")
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    return image


@pytest.fixture(params=["memory", "file", "object", "direct"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "memory":
        return open_disk(f"memory:{SIZE}")
    if request.param == "object":
        return ObjectDisk(PythonDisk())
    if request.param == "direct":
        return open_disk(str(request.getfixturevalue("direct_image")), direct=True)
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    return open_disk(str(image))


def _buffers(data: bytes, lengths: Sequence[int]) -> list[memoryview]:
    view, buffers = memoryview(bytearray(data)), []
    for length in lengths:
        buffers.append(view[:length])
        view = view[length:]
    return buffers


def test_random_vectors_come_back(disk: Disk) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    model = bytearray(SIZE)
    for _ in range(200):
        lengths = [512 * rng.randint(1, 8) for _ in range(rng.randint(1, 4))]
        total = sum(lengths)
        offset = 512 * rng.randrange((SIZE - total) // 512 + 1)
        if rng.random() < 0.5:
            data = rng.randbytes(total)
            disk.pwritev(_buffers(data, lengths), offset)
            model[offset : offset + total] = data
        else:
            buffers = _buffers(bytes(total), lengths)
            disk.preadv(buffers, offset)
            assert b"".join(buffers) == model[offset : offset + total]
    disk.flush()
    assert (disk.size, disk.read_only) == (SIZE, False)
    disk.close()


@pytest.mark.parametrize("offset", [SIZE - 512, SIZE, 1 << 40, -512])
def test_nothing_beyond_the_end(tmp_path: Path, offset: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\x55" * SIZE)
    for disk in (FileDisk(image), MemoryDisk(SIZE)):
        for call in (disk.preadv, disk.pwritev):
            with pytest.raises(OSError, match=f"has {SIZE} bytes, not 1024 from {offset}") as caught:
                call([memoryview(bytearray(1024))], offset)
            assert caught.value.errno == errno.EINVAL
        disk.close()
    assert image.stat().st_size == SIZE


def test_pread_and_pwrite(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    for disk in (FileDisk(image), MemoryDisk(SIZE)):
        disk.pwrite(b"x" * 512, 512)
        assert disk.pread(1024, 0) == bytes(512) + b"x" * 512
        assert ObjectDisk(disk).size == SIZE
        disk.close()
        disk.close()


def test_read_only(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    image.chmod(0o400)
    for disk in (FileDisk(image, read_only=True), open_disk("memory:4K", True), ObjectDisk(PythonDisk(), True)):
        assert disk.read_only
        with pytest.raises(OSError, match="is read-only") as caught:
            disk.pwritev([memoryview(bytes(512))], 0)
        assert caught.value.errno == errno.EROFS
        disk.preadv([memoryview(bytearray(512))], 0)
        disk.flush()
        disk.close()


def test_file_goes_on_after_short_transfers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    disk = FileDisk(image)
    data = random.Random(1).randbytes(3000)
    real_pwritev, real_preadv = os.pwritev, os.preadv

    def at_most_700(buffers: Sequence[memoryview]) -> list[memoryview]:
        first, second = buffers[0], buffers[1:2]
        return [first[:700], *(view[: max(0, 700 - first.nbytes)] for view in second)]

    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: real_pwritev(fd, at_most_700(buffers), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real_preadv(fd, at_most_700(buffers), offset))
    disk.pwritev(_buffers(data, [600, 600, 1800]), 100)
    assert image.read_bytes()[100:3100] == data
    buffers = _buffers(bytes(3000), [1, 2499, 500])
    disk.preadv(buffers, 100)
    assert b"".join(buffers) == data
    disk.close()


def test_file_takes_more_buffers_than_one_call(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    disk = FileDisk(image)
    data = random.Random(2).randbytes(3000)
    disk.pwritev(_buffers(data, [1] * 3000), 0)
    assert disk.pread(3000, 0) == data
    disk.close()


def test_file_that_shrank(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    disk = FileDisk(image)
    os.truncate(image, 512)
    with pytest.raises(OSError, match=f"ended at 512; it had {SIZE} bytes when opened") as caught:
        disk.preadv(_buffers(bytes(1024), [1024]), 0)
    assert caught.value.errno == errno.EIO
    disk.close()


@pytest.mark.parametrize("direct", [False, True])
def test_descriptor(direct_image: Path, direct: bool) -> None:
    disk = FileDisk(direct_image, direct=direct)
    assert disk.direct is direct
    assert bool(fcntl.fcntl(disk.fileno(), fcntl.F_GETFL) & os.O_DIRECT) is direct
    assert os.get_blocking(disk.fileno())
    disk.close()


def test_direct_reads_what_others_wrote_and_keeps_to_sectors(direct_image: Path) -> None:
    disk = FileDisk(direct_image, direct=True)
    direct_image.write_bytes(b"\x55" * SIZE)
    buffers = _buffers(bytes(1024), [1, 511, 300, 212])  # only the sum has to be whole sectors
    disk.preadv(buffers, 512)
    assert b"".join(buffers) == b"\x55" * 1024
    disk.pwritev(_buffers(b"\xaa" * 512, [100, 412]), 1024)
    assert direct_image.read_bytes() == b"\x55" * 1024 + b"\xaa" * 512 + b"\x55" * (SIZE - 1536)
    for count, offset in ((511, 0), (512, 1), (1, 511)):
        for call in (disk.preadv, disk.pwritev):
            with pytest.raises(OSError, match=f"whole sectors of 512 bytes, not {count} bytes from {offset}") as caught:
                call([memoryview(bytearray(count))], offset)
            assert caught.value.errno == errno.EINVAL
    disk.close()


def test_nothing_is_read_and_written(disk: Disk) -> None:
    for buffers in ([], [memoryview(bytearray(0))]):
        disk.preadv(buffers, SIZE)
        disk.pwritev(buffers, SIZE)
    disk.close()


@pytest.mark.parametrize(
    ("alignment", "sentence"),
    [
        (4096, "direct I/O on .*image takes blocks of 4096 bytes; a disk is read and written in 512"),
        (0, "the file system of .*image has no direct I/O"),
        (-errno.EIO, "the file system of .*image has no direct I/O"),
    ],
)
def test_direct_that_does_not_fit(
    direct_image: Path, monkeypatch: pytest.MonkeyPatch, alignment: int, sentence: str
) -> None:
    monkeypatch.setattr(xenblk.image, "lib", SimpleNamespace(xb_file_direct_alignment=lambda _fd: alignment))
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DiskError, match=sentence):
        FileDisk(direct_image, direct=True)
    assert len(os.listdir("/proc/self/fd")) == fds
    monkeypatch.undo()
    FileDisk(direct_image).close()


def test_file_system_without_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskError, match=r"the file system of image has no direct I/O \(O_DIRECT\)"):
        open_disk("image", direct=True)
    with pytest.raises(DiskError, match="cannot be opened for reading and writing: Invalid argument"):
        open_disk("image")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no disk image"),
        (b"", "has 0 bytes; a disk has at least 512"),
        (bytes(511), "has 511 bytes; a disk has at least 512"),
        (bytes(1000), "a multiple of 512 bytes; .* has 1000, which leaves 488"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_files_that_are_no_disks(tmp_path: Path, content: bytes | None, sentence: str, read_only: bool) -> None:
    if content is not None:
        (tmp_path / "image").write_bytes(content)
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DiskError, match=sentence):
        FileDisk(tmp_path / "image", read_only)
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize("read_only", [False, True])
def test_things_that_are_no_files(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DiskError, match="is a directory, not a disk image"):
        FileDisk(tmp_path, read_only)
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(DiskError, match=f"{path} is neither a file nor a block device"):
            FileDisk(path, read_only)
    with pytest.raises(DiskError, match=r"cannot be opened for .*: embedded null byte"):
        FileDisk("a\0b", read_only)


@pytest.mark.parametrize(("read_only", "purpose"), [(False, "reading and writing"), (True, "reading")])
def test_file_without_permission(monkeypatch: pytest.MonkeyPatch, read_only: bool, purpose: str) -> None:
    def refuse(*_arguments: object) -> int:  # the tests may run as root, whom no mode keeps out
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskError, match=f"'image' cannot be opened for {purpose}: Permission denied"):
        FileDisk("image", read_only)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("4K", 4096), ("4k", 4096), ("64M", 64 << 20), ("2G", 2 << 30), ("1t", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5M", "12X", "1MB", "0x200", "1 M", "\N{SUPERSCRIPT TWO}K"])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(DiskError, match="a size is a number of bytes, or one with K, M, G or T such as 64M, not "):
        open_disk(f"memory:{text}")


@pytest.mark.parametrize(("spec", "sentence"), [("memory:0", "has 0 bytes"), ("memory:1000", "leaves 488")])
def test_memory_that_is_no_disk(spec: str, sentence: str) -> None:
    with pytest.raises(DiskError, match=sentence):
        open_disk(spec)


class _Answers(PythonDisk):
    """Answers whatever the test wants."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def pread(self, count: int, offset: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def pwrite(self, data: bytes, offset: int) -> Any:
        return self.pread(0, 0)


@pytest.mark.parametrize(
    ("answer", "sentence", "number"),
    [
        (bytes(511), "_Answers.pread returned 511 bytes from 1024, and 512 were wanted", errno.EIO),
        (bytes(513), "_Answers.pread returned 513 bytes from 1024, and 512 were wanted", errno.EIO),
        (None, "_Answers.pread returned NoneType, not bytes", errno.EIO),
        ("x" * 512, "_Answers.pread returned str, not bytes", errno.EIO),
        (ValueError("no"), r"_Answers.pread failed: ValueError\('no'\)", errno.EIO),
        (OSError(errno.ENOSPC, "full"), "full", errno.ENOSPC),
    ],
)
def test_object_that_answers_wrong(answer: Any, sentence: str, number: int) -> None:
    with pytest.raises(OSError, match=sentence) as caught:
        ObjectDisk(_Answers(answer)).preadv([memoryview(bytearray(512))], 1024)
    assert caught.value.errno == number


@pytest.mark.parametrize("answer", [511, "all", ValueError("no")])
def test_object_that_writes_wrong(answer: Any) -> None:
    with pytest.raises(OSError, match=r"_Answers.pwrite (wrote|failed)") as caught:
        ObjectDisk(_Answers(answer)).pwritev([memoryview(bytes(512))], 1024)
    assert caught.value.errno == errno.EIO


def test_object_may_say_how_much_it_wrote() -> None:
    ObjectDisk(_Answers(512)).pwritev([memoryview(bytes(512))], 0)


def test_object_is_flushed_and_not_closed() -> None:
    disk = PythonDisk()
    wrapped = ObjectDisk(disk)
    wrapped.flush()
    wrapped.close()
    assert disk.flushes == 1


def test_objects_that_are_no_disks() -> None:
    with pytest.raises(DiskError, match="int has no pread, pwrite, flush"):
        ObjectDisk(3)
    with pytest.raises(DiskError, match="leaves 1"):
        ObjectDisk(PythonDisk(513))
    sizeless = PythonDisk()
    sizeless.size = "big"  # type: ignore[assignment]
    with pytest.raises(DiskError, match=r"PythonDisk\.size is 'big'"):
        ObjectDisk(sizeless)


def test_object_that_only_reads() -> None:
    class ReadOnly:
        size, read_only = 512, True

        def pread(self, count: int, offset: int) -> bytes:
            return bytes(count)

        def flush(self) -> None:
            pass

    assert ObjectDisk(ReadOnly()).read_only
