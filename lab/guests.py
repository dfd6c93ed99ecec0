"""Guests: domains that run Debian's kernel, busybox and a job, and say on their consoles how it goes."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.cpio import Archive
from lab.machine import LabError, Machine

POLL_S = 0.2
CREATE_S = 300
LOG_LINES = 40


@dataclass
class Guest:
    """A domain that `create` has made; what it writes arrives in `log` as it writes it."""

    machine: Machine
    name: str
    domid: int
    log: Path

    def output(self) -> str:
        """What its console has shown so far."""
        return self.log.read_text(errors="replace").replace("\r", "") if self.log.exists() else ""

    def wait(self, marker: str, timeout_s: float) -> str:
        """Wait until its console has shown `marker`, and return the output; LabError after timeout_s without it."""
        deadline_s = time.monotonic() + timeout_s
        while marker not in (output := self.output()):
            if time.monotonic() > deadline_s:
                lines = "\n".join(output.splitlines()[-LOG_LINES:])
                raise LabError(f"guest {self.name} did not say {marker!r} in {timeout_s:.0f} s; it said last:\n{lines}")
            self.machine.look_for_death()
            time.sleep(POLL_S)
        return output

    def is_there(self) -> bool:
        """Whether Xen still has the domain, be it as a zombie."""
        return self.machine.run(f"xl domid {self.name}").status == 0

    def destroy(self) -> None:
        """Take it away at once; nothing if it has ended by itself."""
        self.machine.run(f"xl destroy {self.name}")


def create(
    machine: Machine,
    name: str,
    job: str,
    kind: str = "pv",
    disks: Sequence[str] = (),
    vcpus: int = 1,
    memory_mb: int = 256,
    command_line: str = "",
    files: str = "/lab/boot/guest.cpio",
    more: Mapping[str, str] | None = None,
) -> Guest:
    """`xl create` a guest that runs `job`, a script for busybox' shell with xen-blkfront loaded, and then ends.

    kind is "pv" or "pvh". disks are lines as xl.cfg's, such as "format=raw, vdev=xvda, access=rw, target=/tmp/disk".
    command_line goes to its kernel: with root=/dev/xvda, or another disk, the guest mounts that one (ext4) and the job
    runs with it as the root. files are archives in domain 0 that its first file system is made of; the job comes on
    top, as /job. more is more of xl.cfg, name to value as written there. The console ends with "lab: job ended with
    STATUS". LabError if xl fails.
    """
    (machine.shared / f"{name}.job").write_bytes(_job_archive(job))
    settings = {
        "name": f'"{name}"',
        "type": f'"{kind}"',
        "kernel": '"/lab/boot/vmlinux"',
        "ramdisk": f'"/run/lab/{name}.cpio"',
        "extra": f'"console=hvc0 loglevel=4 {command_line}"',
        "memory": str(memory_mb),
        "vcpus": str(vcpus),
        "disk": f"[{', '.join(repr(disk) for disk in disks)}]",
        **{f"on_{end}": '"destroy"' for end in ("poweroff", "reboot", "crash")},
        # Xen cannot decode the rdtscp that it would have to stand in for, under emulation.
        **({"tsc_mode": '"native"'} if kind == "pvh" else {}),
        **(more or {}),
    }
    config = "".join(f"{key} = {value}\n" for key, value in settings.items())
    (machine.shared / f"{name}.cfg").write_text(config)
    # The log of an earlier guest of the name would be taken for this one's.
    log = machine.shared / f"guest-{name}.log"
    machine.check(f"truncate -s 0 /lab/shared/{log.name}; cat {files} /lab/shared/{name}.job >/run/lab/{name}.cpio")
    machine.check(f"xl create /lab/shared/{name}.cfg; status=$?; rm /run/lab/{name}.cpio; exit $status", CREATE_S)
    return Guest(machine, name, int(machine.check(f"xl domid {name}")), log)


def _job_archive(job: str) -> bytes:
    file = io.BytesIO()
    archive = Archive(file)
    archive.file("job", job.encode() + b"\n", 0o755)
    archive.close()
    return file.getvalue()
