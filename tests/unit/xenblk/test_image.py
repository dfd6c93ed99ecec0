"""The access time of disk images, which reads leave as it is."""

import os
from pathlib import Path

from xenblk.image import open_image


def test_reading_an_image_leaves_its_access_time(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    os.utime(image, (1, 2))  # read longer ago than written: a read would show
    fd = open_image(str(image), read_only=True, direct=False)
    assert os.pread(fd, 512, 0) == bytes(512)
    os.close(fd)
    assert image.stat().st_atime == 1


def test_an_image_of_somebody_else_can_be_read() -> None:
    """Only its owner may say that its access time stays."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            open_image("/etc/passwd", read_only=True, direct=False)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
