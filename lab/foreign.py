"""Other people's backends in domain 0: Linux's xen-blkback, and QEMU's."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from lab.machine import LabError, Machine
from xenblk.vdev import parse_vdev

READY_S = 120
QEMU = "/lab/boot/qemu/usr"
QEMU_LOG = "/run/lab/qemu.log"


@dataclass(frozen=True)
class ForeignBackend:
    """A backend that serves what is below domain 0's backend/`backend_type`, with nodes of its own."""

    machine: Machine
    name: str
    backend_type: str
    is_persistent: bool
    """Whether it offers persistent grants."""
    has_queues: bool
    """Whether it offers two rings for a disk."""

    def attach(self, domid: int, vdev: str, image: str) -> None:
        """Give a domain a file as its disk, and wait until the backend offers it."""
        nodes = {"hotplug-status": "connected", **self._nodes(image)}
        words = " ".join(f"--backend-node {key}={value}" for key, value in nodes.items())
        where = f"--domid {domid} --vdev {vdev} --backend-type {self.backend_type}"
        self.machine.check(f"xenblk attach --platform xen {where} --disk {image} {words}")
        state = f"/local/domain/0/backend/{self.backend_type}/{domid}/{parse_vdev(vdev)}/state"
        done = self.machine.run(f'until [ "$(xenstore-read {state})" = 2 ]; do sleep 0.1; done', READY_S)
        if done.status != 0:
            raise LabError(f"{self.name} does not offer {image}; it said:\n{self._said()}")

    def detach(self, domid: int, vdev: str) -> None:
        """Take it away."""
        self.machine.check(f"xenblk detach --platform xen --domid {domid} --vdev {vdev}")

    def _nodes(self, _image: str) -> dict[str, str]:
        return {}

    def _said(self) -> str:
        return self.machine.run("dmesg | tail -20").output


@dataclass(frozen=True)
class LinuxBackend(ForeignBackend):
    """xen-blkback, on loop devices."""

    def _nodes(self, image: str) -> dict[str, str]:
        device = self.machine.check(f"losetup -f --show {image}").strip()
        return {"type": "phy", "physical-device": self.machine.check(f"stat -c %Hr:%Lr {device}").strip()}

    def detach(self, domid: int, vdev: str) -> None:
        """See ForeignBackend."""
        super().detach(domid, vdev)
        self.machine.check("losetup -D")


@dataclass(frozen=True)
class QemuBackend(ForeignBackend):
    """QEMU, on files."""

    def _said(self) -> str:
        return self.machine.run(f"cat {QEMU_LOG}").output


@contextlib.contextmanager
def linux_backend(machine: Machine) -> Iterator[LinuxBackend]:
    """The module is there, with two rings for each disk, and no other process may take its disks."""
    machine.check("modprobe loop; modprobe -r xen-blkback; modprobe xen-blkback max_queues=2")
    yield LinuxBackend(machine, "xen-blkback", "vbd", is_persistent=True, has_queues=True)
    machine.check("modprobe -r xen-blkback")


@contextlib.contextmanager
def qemu_backend(machine: Machine) -> Iterator[QemuBackend]:
    """QEMU as a process that serves domain 0's own disks."""
    program = f"LD_LIBRARY_PATH={QEMU}/lib/x86_64-linux-gnu {QEMU}/libexec/xen-qemu-system-i386"
    words = "-xen-domid 0 -xen-attach -M xenpv -nodefaults -display none -monitor none -serial none"
    pid = machine.check(f"{program} {words} >{QEMU_LOG} 2>&1 </dev/null & echo $!").strip()
    yield QemuBackend(machine, "QEMU", "qdisk", is_persistent=False, has_queues=False)
    machine.check(f"kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done")
