"""xenstored as a program of its own: one loop over the sockets of domain 0 and of the domains that are introduced.

There is no Xen to say which domains exist, so each number is one's. INTRODUCE opens a socket for the domain beside that
of domain 0, where clients speak as that domain; RELEASE closes it.
"""

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from xenblk.abi import DOM0, Domid
from xenblk.errors import HostError
from xenblk.loop import SOCKET_PATH_BYTES_MAX, Loop
from xenblk.xenstore.server import XenstoreServer
from xenblk.xenstore.store import refuse
from xenblk.xenstore.trace import Trace
from xenblk.xenstore.xenstored import Xenstored


def default_socket_path() -> Path:
    """Where libxenstore looks: $XENSTORED_PATH, else `socket` in $XENSTORED_RUNDIR or /var/run/xenstored."""
    rundir = os.environ.get("XENSTORED_RUNDIR") or "/var/run/xenstored"
    return Path(os.environ.get("XENSTORED_PATH") or f"{rundir}/socket")


class XenstoreDaemon:
    """A xenstore at `path`, mode 0600, whose folder is made if need be: `run` serves until `stop`.

    HostError EBUSY if somebody serves there already, or why the socket cannot be made; OSError if the trace cannot.
    """

    def __init__(self, path: Path, trace_path: Path | None = None) -> None:
        self.path = path.absolute()
        self._guests: set[Domid] = set()
        self._trace = Trace(trace_path)
        self._loop = Loop()
        self._server = XenstoreServer(Xenstored(self, trace=self._trace, clock=time.monotonic), self._loop)
        try:
            self._claim()
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        longest = os.fsencode(self.guest_path(Domid(65535)))
        if len(longest) > SOCKET_PATH_BYTES_MAX:
            raise HostError(
                "ENAMETOOLONG",
                f"the socket {self.path} is too long a path: those of domains may have {SOCKET_PATH_BYTES_MAX} bytes, "
                f"and would have up to {len(longest)}",
            )
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with _locked(self.path.parent):
                self._remove_stale()
                self._server.listen(str(self.path), DOM0)
        except OSError as e:
            where = f" ({e.filename})" if e.filename else ""
            raise HostError("EACCES", f"the socket {self.path} cannot be made: {e.strerror}{where}") from None

    def _remove_stale(self) -> None:
        """Remove what a killed server left; one that lives accepts a connection."""
        try:
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise HostError("EEXIST", f"{self.path} is there already, and is no socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(self.path)) == 0:
                raise HostError("EBUSY", f"somebody serves {self.path} already: stop it or choose another")
        self.path.unlink(missing_ok=True)

    def guest_path(self, domid: Domid) -> Path:
        """The socket of an introduced domain."""
        return self.path.with_name(f"{self.path.name}.{domid}")

    def run(self) -> None:
        """Serve until `stop`."""
        self._loop.run()

    def stop(self) -> None:
        """Let `run` return, from any thread or signal handler."""
        self._loop.stop()

    def reopen_trace(self) -> None:
        """Write the trace to a new file of the same name, from any thread or signal handler."""
        self._loop.call(self._reopen_trace)

    def _reopen_trace(self) -> None:
        with contextlib.suppress(OSError):  # the old file is written further
            self._trace.open()

    def close(self) -> None:
        """End every connection and remove the sockets."""
        self._server.close()
        self._loop.close()
        self._trace.close()

    def __enter__(self) -> "XenstoreDaemon":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    # As the Hypervisor of xenstore

    def exists(self, domid: Domid) -> bool:
        """Every domain does."""
        return True

    def connect(self, domid: Domid, port: int) -> None:
        """Open the domain's socket; XenstoreError EINVAL if that fails. Nothing happens if it is open."""
        if domid in self._guests:
            return
        path = self.guest_path(domid)
        try:
            path.unlink(missing_ok=True)
            self._server.listen(str(path), domid)
        except OSError as e:
            raise refuse("EINVAL", f"the socket {path} cannot be made: {e.strerror}") from None
        self._guests.add(domid)

    def disconnect(self, domid: Domid) -> None:
        """Close the domain's socket."""
        if domid in self._guests:
            self._guests.remove(domid)
            self._server.unlisten(str(self.guest_path(domid)))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Whoever else would make a socket in the folder waits."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
