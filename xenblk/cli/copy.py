"""`xenblk copy`: a file into a virtual disk or out of it, through the ring, checked by SHA-256."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from xenblk.abi import DOM0, SECTOR_SIZE, Domid
from xenblk.blkfront import VirtualDisk
from xenblk.cli.guest import booted
from xenblk.cli.options import own_domid_option
from xenblk.cli.platforms import EmulatedXen, Xen, xen_option
from xenblk.cli.ring_options import ring_options
from xenblk.disk import MEMORY_PREFIX, open_disk
from xenblk.emulated.control import ControlClient
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import RunDirectory
from xenblk.errors import XenblkError
from xenblk.processes import Command, HostProcess
from xenblk.toolstack import attach
from xenblk.vdev import parse_vdev

PREFIX: Final = "vbd:"
CHUNK_BYTES: Final = 1 << 20


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--disk", help="Serve this image with a host and backend of our own: a path, or memory:SIZE.")
@xen_option
@own_domid_option(1, "The domain of the disk, in an emulated Xen.")
@click.option("--feature-persistent/--no-feature-persistent", default=True, help="Offer persistent grants.")
@ring_options
def copy(
    source: str,
    destination: str,
    disk: str | None,
    xen: Xen,
    domid: Domid | None,
    feature_persistent: bool,
    protocol: str,
    ring_page_order: int,
    max_indirect_segments: int,
) -> None:
    """Copy a file into a virtual disk or out of it, and check its SHA-256.

    One of SOURCE and DESTINATION is a virtual disk, written vbd:xvda. With --disk it is that image, otherwise a disk
    attached to this machine's own domain of Xen, or to --domid in a running host. What was copied is read back from
    where it went, and both sums are compared.
    """
    if source.startswith(PREFIX) == destination.startswith(PREFIX):
        raise click.UsageError("one of SOURCE and DESTINATION is a virtual disk, written vbd:xvda, the other a file")
    into_disk = destination.startswith(PREFIX)
    vdev = (destination if into_disk else source).removeprefix(PREFIX)
    handle = parse_vdev(vdev)
    path = Path(source if into_disk else destination)
    if into_disk:
        _check_source(path)
    with contextlib.ExitStack() as stack:
        if disk is not None:
            xen, domid = stack.enter_context(_own_host(disk, handle, read_only=not into_disk))
        guest = booted(
            xen,
            domid,
            handle,
            feature_persistent=feature_persistent,
            protocol=protocol,
            ring_page_order=ring_page_order,
            max_indirect_segments=max_indirect_segments,
        )
        _platform, frontend = stack.enter_context(guest)
        virtual_disk = VirtualDisk(frontend)
        copied = _copy_in(path, virtual_disk) if into_disk else _copy_out(virtual_disk, path)
    Console(soft_wrap=True, highlight=False).print(copied)


def _check_source(path: Path) -> None:
    """Say what is wrong with a file before anything is started for it; open_disk has the sentences."""
    open_disk(str(path), True).close()


@contextlib.contextmanager
def _own_host(disk: str, handle: int, read_only: bool) -> Iterator[tuple[Xen, Domid]]:
    open_disk(disk, read_only).close()
    params = disk if disk.startswith(MEMORY_PREFIX) else str(Path(disk).absolute())
    with HostProcess() as host, Command(["backend", "--run-dir", str(host.run_dir)]) as backend:
        backend.readline()
        directory = RunDirectory(host.run_dir)
        control = ControlClient(directory.control)
        try:
            domid = Domid(control.call("create", domid=None)[0]["domid"])
            platform = EmulatedPlatform(host.run_dir, DOM0)
            with platform.xenstore() as store:
                attach(store, domid, handle, params, "r" if read_only else "w")
            platform.close()
        finally:
            control.close()
        yield EmulatedXen(host.run_dir), domid


def _copy_in(path: Path, disk: VirtualDisk) -> str:
    size = path.stat().st_size
    if disk.read_only:
        raise XenblkError("the virtual disk is read-only: nothing can be copied into it")
    if size > disk.size:
        raise XenblkError(f"{path} has {size} bytes, and the virtual disk only {disk.size}")
    sent, received = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file, _progress() as progress:
        task = progress.add_task("writing", total=size)
        for offset in range(0, size, CHUNK_BYTES):
            data = file.read(min(CHUNK_BYTES, size - offset))
            if len(data) < min(CHUNK_BYTES, size - offset):
                raise XenblkError(f"{path} became shorter while it was copied")
            sent.update(data)
            disk.pwrite(data, offset)
            progress.advance(task, len(data))
        disk.flush()
        task = progress.add_task("reading back", total=size)
        for data in _blocks(disk, size):
            received.update(data)
            progress.advance(task, len(data))
    return _verdict(f"{path} -> virtual disk", size, sent.hexdigest(), received.hexdigest())


def _copy_out(disk: VirtualDisk, path: Path) -> str:
    sent, received = hashlib.sha256(), hashlib.sha256()
    with path.open("wb") as file, _progress() as progress:
        task = progress.add_task("reading", total=disk.size)
        for data in _blocks(disk, disk.size):
            sent.update(data)
            file.write(data)
            progress.advance(task, len(data))
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            received.update(data)
    return _verdict(f"virtual disk -> {path}", disk.size, sent.hexdigest(), received.hexdigest())


def _blocks(disk: VirtualDisk, size: int) -> Iterator[bytes]:
    assert size % SECTOR_SIZE == 0
    for offset in range(0, size, CHUNK_BYTES):
        yield disk.pread(min(CHUNK_BYTES, size - offset), offset)


def _verdict(what: str, size: int, sent: str, received: str) -> str:
    if sent != received:
        raise XenblkError(f"{what}: the copy differs: SHA-256 {sent} was sent, {received} came back")
    return f"{what}: {size} bytes\nSHA-256 {sent} (read back, the same)"


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
