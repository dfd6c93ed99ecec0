"""What tests of drivers need: an emulated Xen per test, with backends, frontends and other people's programs in it."""

from xenblk.testing.host import XenHost, eventually
from xenblk.testing.keeper import HostKeeper
from xenblk.testing.report import describe
from xenblk.testing.vbd import AttachedVbd

__all__ = ["AttachedVbd", "HostKeeper", "XenHost", "describe", "eventually"]
