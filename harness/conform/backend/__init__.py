"""The cases for backends; importing the package registers them all."""

from xenblk.harness.conform.backend import (
    abi,
    checks,
    data,
    flush,
    handshake,
    hostile,
    indirect,
    keys,
    life,
    persistent,
    queues,
    ring,
)
from xenblk.harness.conform.backend.lab import BACKEND, Lab

__all__ = [
    "BACKEND",
    "Lab",
    "abi",
    "checks",
    "data",
    "flush",
    "handshake",
    "hostile",
    "indirect",
    "keys",
    "life",
    "persistent",
    "queues",
    "ring",
]
