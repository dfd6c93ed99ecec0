"""The kernel inside Debian's compressed one, as Xen can take it: without the work of unpacking it at every start.

Source: Linux, Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length.
"""

import lzma
import struct

SECTOR = 512
SETUP_SECTS = 0x1F1
PAYLOAD_OFFSET = 0x248


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF file that is in a bzImage, compressed with xz. ValueError if it is anything else."""
    offset, length = struct.unpack_from("<II", bzimage, PAYLOAD_OFFSET)
    start = (bzimage[SETUP_SECTS] + 1) * SECTOR + offset
    try:
        kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(bzimage[start : start + length])
    except lzma.LZMAError as error:
        raise ValueError(f"the kernel's payload must be compressed with xz: {error}") from error
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError(f"the kernel's payload must be an ELF file, and it begins with {kernel[:4].hex()}")
    return kernel
