"""What the machine boots, made of the packages that fetch.sh has unpacked: `python -m lab.images DIR`.

boot/xen, boot/vmlinux     the hypervisor, and the kernel of domain 0 and of guests
boot/dom0.cpio             domain 0's first file system, which is its only one
boot/guest.cpio            guests' first file system
boot/root.ext4             a root file system for guests, on a disk

Domain 0 finds this folder as /lab/boot.
"""

import gzip
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lab.cpio import Archive
from lab.vmlinux import vmlinux

HERE = Path(__file__).resolve().parent
DOM0_MODULES = ("xen-*", "xenfs", "loop", "ext4", "virtio_pci", "9p", "9pnet_virtio", "crc32c*")
GUEST_MODULES = ("xen-blkfront", "ext4", "crc32c_generic")
ROOT_KB = 16 << 10
# By far the largest of what nobody in domain 0 asks for.
UNWANTED = (
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/libperl",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/systemd",
    "usr/lib/xen-4.17/boot",
    "usr/lib/udev",
    "usr/bin/perl",
    "usr/bin/udevadm",
    "usr/share/perl",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "var/lib/dpkg",
    "var/lock",
    "var/run",
)


class Dom0Programs:
    """Runs programs of domain 0's packages on this machine, with their own libraries."""

    def __init__(self, root: Path) -> None:
        libraries = root / "usr/lib/x86_64-linux-gnu"
        self._loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        self._root = root

    def depmod(self, folder: Path, release: str) -> None:
        """Write modules.dep and its like below folder/lib/modules/release."""
        self._run("--argv0", "depmod", self._root / "usr/bin/kmod", "-b", folder, release)

    def compile(self, folder: Path) -> None:
        """Compile the Python below `folder`; without file times, which the archives have not, nothing is checked."""
        program = [self._root / "usr/bin/python3.11", "-m", "compileall", "-q", "-j", "0", "-s", self._root]
        self._run(*program, "--invalidation-mode", "unchecked-hash", folder)

    def mke2fs(self, image: Path, root: Path, size_kb: int) -> None:
        """Make a file with an ext4 file system in it that holds what is in the folder `root`, owned by root."""
        words = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", root, image, f"{size_kb}k"]
        self._run(self._root / "usr/sbin/mke2fs", *words)

    def _run(self, *words: object) -> None:
        environment = {"PYTHONHOME": str(self._root / "usr"), "PATH": "/usr/bin:/bin"}
        subprocess.run([*self._loader, *map(str, words)], check=True, env=environment, stdout=subprocess.DEVNULL)


def build(folder: Path) -> None:
    """Make all images of `folder`, which fetch.sh has filled."""
    boot = folder / "boot"
    boot.mkdir(exist_ok=True)
    (boot / "xen").write_bytes(gzip.decompress(_only(folder, "kernel/boot/xen-*-amd64.gz").read_bytes()))
    (boot / "vmlinux").write_bytes(vmlinux(_only(folder, "kernel/boot/vmlinuz-*").read_bytes()))
    programs = Dom0Programs(folder / "dom0")
    programs.compile(folder / "dom0/usr/lib/python3.11")
    programs.compile(folder / "dom0/usr/lib/python3")
    _root(folder, programs)
    with open(boot / "guest.cpio", "wb") as file:
        _guest(Archive(file), folder, programs)
    with open(boot / "dom0.cpio", "wb") as file:
        _dom0(Archive(file), folder, programs)


def _dom0(archive: Archive, folder: Path, programs: Dom0Programs) -> None:
    archive.tree(folder / "dom0", wanted=lambda name: not name.startswith(UNWANTED))
    archive.file("init", (HERE / "dom0/init").read_bytes(), 0o755)
    archive.file("usr/bin/busybox", (folder / "guest/bin/busybox").read_bytes(), 0o755)
    archive.link("usr/bin/sh", "bash")
    archive.link("usr/bin/awk", "mawk")
    archive.link("var/run", "/run")
    archive.link("var/lock", "/run/lock")
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3)
    archive.folder("usr/lib/modules")
    archive.tree(_modules(folder, programs, DOM0_MODULES), at="usr/lib/modules")
    for name in ("lab", "lab/boot", "lab/shared"):
        archive.folder(name)
    archive.close()


def _guest(archive: Archive, folder: Path, programs: Dom0Programs) -> None:
    for name in ("bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "sys", "tmp"):
        archive.folder(name)
    archive.file("init", (HERE / "guest/init").read_bytes(), 0o755)
    archive.file("bin/busybox", (folder / "guest/bin/busybox").read_bytes(), 0o755)
    archive.character_device("dev/console", 5, 1)
    archive.tree(_modules(folder, programs, GUEST_MODULES), at="lib/modules")
    archive.close()


def _root(folder: Path, programs: Dom0Programs) -> None:
    staging, image = folder / "boot/root", folder / "boot/root.ext4"
    shutil.rmtree(staging, ignore_errors=True)
    image.unlink(missing_ok=True)
    for name in ("bin", "dev", "mnt", "proc", "run", "sbin", "sys", "tmp"):
        (staging / name).mkdir(parents=True)
    shutil.copy(HERE / "guest/root-init", staging / "sbin/init")
    busybox = folder / "guest/bin/busybox"
    shutil.copy(busybox, staging / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (staging / "bin" / applet).symlink_to("busybox")
    programs.mke2fs(image, staging, ROOT_KB)


def _modules(folder: Path, programs: Dom0Programs, wanted: Iterable[str]) -> Path:
    """A folder like /lib/modules with the kernel modules that match the patterns, and all that they stand on."""
    everything = _only(folder, "kernel/lib/modules/*")
    if not (everything / "modules.dep").exists():
        programs.depmod(folder / "kernel", everything.name)
    needs = {}
    for line in (everything / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    # What a module needs by name is not among what it stands on; all that it stands on is, not only the next.
    chosen = {module for module in needs for pattern in wanted if Path(module).match(f"{pattern}.ko")}
    staging = folder / "boot/modules"
    shutil.rmtree(staging, ignore_errors=True)
    to = staging / "lib/modules" / everything.name
    for module in chosen.union(*(needs[module] for module in chosen)):
        (to / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(everything / module, to / module)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(everything / name, to / name)
    programs.depmod(staging, everything.name)
    return to.parent


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder} must have one {pattern}, and has {len(found)}")
    return found[0]


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
