"""The backend driver: serves disks to other domains' frontends."""

from xenblk.blkback.backend import Backend
from xenblk.blkback.charging import ChargeableRing, Charging
from xenblk.blkback.parameters import BackendParameters

__all__ = ["Backend", "BackendParameters", "ChargeableRing", "Charging"]
