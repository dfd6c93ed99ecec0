"""Virtual device names and numbers, as xen-vbd-interface(7) encodes them: xvda is 51712.

202 << 8 | disk << 4 | partition     xvd, up to disk 15 and partition 15
1 << 28 | disk << 8 | partition      xvd beyond that
8 << 8 | disk << 4 | partition       sd, up to disk 15
3 << 8 | disk << 6 | partition       hda and hdb
22 << 8 | (disk - 2) << 6 | part.    hdc and hdd
"""

import re
from typing import Final

from xenblk.errors import UsageError

_NAME: Final = re.compile(r"(xvd|sd|hd)([a-z]{1,5})([0-9]{0,3})")
_EXTENDED: Final = 1 << 28


def parse_vdev(name: str) -> int:
    """The number of a device such as xvda, xvdb1, sda or a plain number; UsageError if it is none."""
    if name.isascii() and name.isdecimal() and int(name) < 1 << 29:
        return int(name)
    match = _NAME.fullmatch(name)
    number = _encode(match[1], _disk_index(match[2]), int(match[3] or 0)) if match else None
    if number is None:
        raise UsageError(f"a virtual device is named like xvda, xvdb1, sda or hda, or by its number, not {name!r}")
    return number


def _disk_index(letters: str) -> int:
    index = 0
    for letter in letters:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def _encode(kind: str, disk: int, partition: int) -> int | None:
    if kind == "xvd" and disk < 16 and partition < 16:
        return 202 << 8 | disk << 4 | partition
    if kind == "xvd" and disk < 1 << 20 and partition < 256:
        return _EXTENDED | disk << 8 | partition
    if kind == "sd" and disk < 16 and partition < 16:
        return 8 << 8 | disk << 4 | partition
    if kind == "hd" and disk < 2 and partition < 64:
        return 3 << 8 | disk << 6 | partition
    if kind == "hd" and disk < 4 and partition < 64:
        return 22 << 8 | (disk - 2) << 6 | partition
    return None


def vdev_name(number: int) -> str:
    """The name that `parse_vdev` would turn into this number; the number itself if there is none."""
    if number >> 28 == 1:
        name = f"xvd{_letters((number >> 8) & 0xFFFFF)}{_partition(number & 0xFF)}"
        return name if parse_vdev(name) == number else str(number)
    for kind, shift, first_disk in (("xvd", 4, 0), ("sd", 4, 0), ("hd", 6, 0), ("hd", 6, 2)):
        disk, partition = divmod(number & 0xFF, 1 << shift)
        if _encode(kind, first_disk + disk, partition) == number:
            return f"{kind}{_letters(first_disk + disk)}{_partition(partition)}"
    return str(number)


def _letters(index: int) -> str:
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _partition(number: int) -> str:
    return str(number) if number else ""
