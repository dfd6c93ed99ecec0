"""Whose fault it was: the peer's, the caller's, or the world's. Our own bugs are assertions and never in here.

XenblkError
 +- PeerError          the other side broke a rule: answer it or stop its ring, never crash
 |   +- RingPeerError  an index that no honest peer could have written
 |   +- BlkifPeerError a request or response that the protocol does not allow
 |   +- PeerGoneError  the other side, or the host, went away
 +- UsageError         our caller broke a rule: wrong state, wrong value
 +- WouldBlockError    full or empty; raised by calls that never wait
 +- GrantError         a grant operation failed; carries Xen's status
 +- XenstoreError      xenstore refused; carries the errno name it sent
 +- DiskError          a disk image cannot be used
 +- HostError          the emulated Xen refused; carries an errno name

Each message is a sentence with the rule, the value and the bound. A caller of the command line sees it as it stands.
"""

import errno


class XenblkError(Exception):
    """Base of everything that xenblk raises on purpose."""


class PeerError(XenblkError):
    """The other side broke a rule of the protocol."""


class MessageTooLongError(PeerError):
    """A xenstore message claims more bytes than one may have."""


class RingPeerError(PeerError):
    """A shared index is impossible; the ring must not be used any further."""


class BlkifPeerError(PeerError):
    """A request or response that the protocol does not allow."""


class PeerGoneError(PeerError):
    """The other side, or the emulated Xen itself, went away."""


class UsageError(XenblkError):
    """The caller asked for something that the rules forbid."""


class WouldBlockError(XenblkError):
    """Nothing can be done without waiting."""


class DiskError(XenblkError):
    """A disk image cannot be opened, or is not usable as a disk."""


class GrantError(XenblkError):
    """A grant operation failed; `status` is the negative GNTST_* number of grant_table.h."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class XenstoreError(XenblkError):
    """Xenstore refused a request; `name` is the errno name that came over the wire, such as ENOENT."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"xenstore answered {name} to {what}")
        self.name = name

    @property
    def errno(self) -> int:
        """The number of `name` on this machine; EINVAL for a name unknown here."""
        return int(getattr(errno, self.name, errno.EINVAL))


class HostError(XenblkError):
    """The emulated Xen refused or cannot be reached; `name` is an errno name such as ENOENT."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
