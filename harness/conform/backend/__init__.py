"""The cases for backends; importing the package registers them all, in this order."""

from xenblk.harness.conform.backend import handshake, keys
from xenblk.harness.conform.backend.lab import BACKEND, Lab

__all__ = ["BACKEND", "Lab", "handshake", "keys"]
