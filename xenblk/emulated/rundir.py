"""The run directory of an emulated Xen: where its sockets and counters are, and who may own it.

lock             held with flock by the host that owns the directory; its text is that host's pid
control          SOCK_SEQPACKET socket: the hypercalls that need the host (control.py)
socket           xenstore, privileged; so XENSTORED_RUNDIR may name this directory
domain-N.socket  xenstore as domain N
counters/        one file of counters per ring and end
journals/        what a backend took off a ring and did not answer, one file per ring
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.errors import HostError
from xenblk.loop import SOCKET_PATH_BYTES_MAX

ENVIRONMENT: Final = "XENBLK_RUN_DIR"


def default_run_dir() -> Path:
    """$XENBLK_RUN_DIR, else a directory of this user's own under $XDG_RUNTIME_DIR or the temporary folder."""
    if ENVIRONMENT in os.environ:
        return Path(os.environ[ENVIRONMENT])
    if "XDG_RUNTIME_DIR" in os.environ:
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "xenblk"
    return Path(tempfile.gettempdir()) / f"xenblk-{os.getuid()}"


class RunDirectory:
    """The paths below one run directory; `claim` makes this process its owner."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_fd = -1
        self._made = False

    @property
    def control(self) -> Path:
        """The host's control socket."""
        return self.path / "control"

    @property
    def counters(self) -> Path:
        """The folder of the counter files."""
        return self.path / "counters"

    @property
    def journals(self) -> Path:
        """The folder of the backends' journals."""
        return self.path / "journals"

    def xenstore(self, domid: Domid) -> Path:
        """The socket on which xenstore takes its caller for domain `domid`; domain 0 is privileged."""
        return self.path / ("socket" if domid == DOM0 else f"domain-{domid}.socket")

    def claim(self) -> None:
        """Make the directory and become its owner, sweeping what a killed owner left; HostError if it has one."""
        longest = os.fsencode(self.xenstore(Domid(65535)))
        if len(longest) > SOCKET_PATH_BYTES_MAX:
            raise HostError(
                "ENAMETOOLONG",
                f"the run directory {self.path} is too long a path: the sockets in it may have "
                f"{SOCKET_PATH_BYTES_MAX} bytes, and would have up to {len(longest)}",
            )
        try:
            self._made = not self.path.exists()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except OSError as e:
            raise HostError("EACCES", f"the run directory {self.path} cannot be used: {e.strerror}") from None
        self._sweep()
        self.counters.mkdir(mode=0o700)
        self.journals.mkdir(mode=0o700)

    def _take_lock(self) -> None:
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise HostError(
                "EBUSY", f"the run directory {self.path} is in use by process {owner}: stop it or choose another"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def _sweep(self) -> None:
        for entry in self.path.iterdir():
            if entry.name in ("control", "socket") or entry.match("domain-*.socket"):
                entry.unlink(missing_ok=True)
        shutil.rmtree(self.counters, ignore_errors=True)
        shutil.rmtree(self.journals, ignore_errors=True)

    def release(self) -> None:
        """Remove what `claim` and the host made; the directory too, if it was made here and nothing else is in it."""
        if self._lock_fd < 0:
            return
        self._sweep()
        (self.path / "lock").unlink(missing_ok=True)
        if self._made:
            with contextlib.suppress(OSError):
                self.path.rmdir()
        os.close(self._lock_fd)
        self._lock_fd = -1
