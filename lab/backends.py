"""Backends in domain 0: `xenblk backend` as a process of its own, and what it counts."""

import itertools
from dataclasses import dataclass
from typing import Self

from lab.machine import LabError, Machine
from xenblk.counters import Counters
from xenblk.vdev import parse_vdev

READY_S = 120
STOP_S = 60
_numbers = itertools.count()


@dataclass(frozen=True)
class Backend:
    """A process that `start` has started. It serves what is below its domain's backend/`backend_type`."""

    machine: Machine
    backend_type: str
    pid: int
    log_path: str

    @classmethod
    def start(cls, machine: Machine, *options: str, backend_type: str = "vbd", command: str = "xenblk backend") -> Self:
        """Start `command` with these options and its type, and wait until it says that it is ready.

        xl's disks are of type vbd, and so are xen-blkback's, which is removed for it. Several backends run at a time if
        each has a type of its own. LabError, with what it has said, if it ends before it is ready.
        """
        log = f"/run/lab/backend-{next(_numbers)}.log"
        words = f"{command} --backend-type {backend_type} {' '.join(options)}"
        module = "[ ! -e /sys/module/xen_blkback ] || modprobe -r xen-blkback;" if backend_type == "vbd" else ""
        # In a session of its own it outlives the command that starts it.
        pid = int(machine.check(f"{module} setsid {words} >{log} 2>&1 </dev/null & echo $!"))
        backend = cls(machine, backend_type, pid, log)
        ready = f"until [[ $(<{log}) = *ready* ]]; do kill -0 {pid} || exit 1; sleep 0.5; done"
        if machine.run(ready, READY_S).status != 0:
            raise LabError(f"a backend is not ready: {words}; it said:\n{backend.log()}")
        return backend

    def stop(self) -> None:
        """End it as a service manager would, and wait until it is gone; nothing if it is."""
        self._end("TERM")

    def kill(self) -> None:
        """End it in the middle of what it does; nothing if it is gone."""
        self._end("KILL")

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self.machine.run(f"kill -0 {self.pid}").status == 0

    def log(self) -> str:
        """What it has said so far."""
        return self.machine.check(f"cat {self.log_path}")

    def attach(self, domid: int, vdev: str, disk: str, *options: str) -> None:
        """Give a domain that is there a disk of this backend's; options are those of `xenblk attach`."""
        words = f"--domid {domid} --vdev {vdev} --disk {disk} {' '.join(options)}"
        self.machine.check(f"xenblk attach --backend-type {self.backend_type} {words}")

    def counters(self, domid: int, vdev: str) -> dict[int, dict[str, int]]:
        """What each ring of a domain's disk has counted (xenblk.counters), by the ring's number."""
        return counters(self.machine, domid, vdev)

    def _end(self, signal: str) -> None:
        gone = f"kill -{signal} {self.pid} || exit 0; while kill -0 {self.pid}; do sleep 0.1; done"
        if self.machine.run(f"exec 2>/dev/null; {gone}", STOP_S).status != 0:
            raise LabError(f"a backend did not end by SIG{signal}; it said:\n{self.log()}")


def counters(machine: Machine, domid: int, vdev: str) -> dict[int, dict[str, int]]:
    """What backends in domain 0 have counted for each ring of a domain's disk, by the ring's number."""
    stem = f"vbd-0-{domid}-{parse_vdev(vdev)}-"
    machine.check("rm -rf /lab/shared/counters; cp -r /run/xenblk/counters /lab/shared/counters")
    rings = {}
    for path in (machine.shared / "counters").glob(f"{stem}*.back"):
        file = Counters.open(path)
        rings[int(path.name.removeprefix(stem).removesuffix(".back"))] = file.snapshot()
        file.close()
    return rings
