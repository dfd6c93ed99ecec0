"""Doubles of known drivers: on the wire as the originals are, quirks and all."""

from xenblk.harness.doubles.backends import BACKENDS
from xenblk.harness.doubles.frontends import FRONTENDS, FrontendDouble

__all__ = ["BACKENDS", "FRONTENDS", "FrontendDouble"]
