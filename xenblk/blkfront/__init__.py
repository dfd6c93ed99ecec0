"""The frontend driver: a virtual disk, as its domain sees it."""

from xenblk.blkfront.aio import AsyncDisk
from xenblk.blkfront.bio import Bio
from xenblk.blkfront.blkfront import Blkfront
from xenblk.blkfront.disk import VirtualDisk

__all__ = ["AsyncDisk", "Bio", "Blkfront", "VirtualDisk"]
