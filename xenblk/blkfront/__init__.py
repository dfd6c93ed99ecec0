"""The frontend driver: a virtual disk, as its domain sees it."""

import importlib
from typing import TYPE_CHECKING

from xenblk.blkfront.bio import Bio
from xenblk.blkfront.blkfront import Blkfront
from xenblk.blkfront.disk import VirtualDisk

if TYPE_CHECKING:
    from xenblk.blkfront.aio import AsyncDisk

__all__ = ["AsyncDisk", "Bio", "Blkfront", "VirtualDisk"]


def __getattr__(name: str) -> object:
    # Loaded when first used: asyncio takes longer than all the rest.
    if name != "AsyncDisk":
        raise AttributeError(f"module 'xenblk.blkfront' has no attribute {name!r}")
    return importlib.import_module("xenblk.blkfront.aio").AsyncDisk
