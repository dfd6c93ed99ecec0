"""Disks whose flush fails: whoever flushed learns of it; and disks that have none, which is offered no longer."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk.abi import DOM0
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifStatus
from xenblk.toolstack import backend_path
from xenblk.xenbus import XenbusState as S

XVDA = 51712
ENGINES = pytest.mark.parametrize("engine", ["native", "python"])
FLUSHES = {BlkifOp.FLUSH_DISKCACHE: "feature-flush-cache", BlkifOp.WRITE_BARRIER: "feature-barrier"}

BACKEND = """
import ctypes, os, sys
from xenblk.cli.commands import cli

# A seccomp filter: fdatasync ends with the error of sys.argv[1], and without io_uring there is no other way to flush.
# (code, jump if true, jump if false, operand): load the call's number, compare, return SECCOMP_RET_ERRNO or _ALLOW.
FDATASYNC, IO_URING_SETUP = {"x86_64": (75, 425), "aarch64": (83, 425)}[os.uname().machine]
steps = [
    (0x20, 0, 0, 0),
    (0x15, 2, 0, FDATASYNC),
    (0x15, 2, 0, IO_URING_SETUP),
    (0x06, 0, 0, 0x7FFF0000),
    (0x06, 0, 0, 0x00050000 | int(sys.argv[1])),
    (0x06, 0, 0, 0x00050000 | 38),
]

class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]

class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
libc = ctypes.CDLL(None, use_errno=True)
array = (Step * len(steps))(*steps)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(steps), array))) == 0
cli(sys.argv[2:])
"""


@pytest.fixture
def backend_with(world: Any) -> Callable[[int, str], None]:
    """Starts a backend whose fdatasync fails with a number."""

    def start(number: int, engine: str) -> None:
        options = ["backend", "--run-dir", str(world.run_dir), "--engine", engine]
        world.host.run([sys.executable, "-c", BACKEND, str(number), *options]).readline(20.0)

    return start


@ENGINES
@pytest.mark.parametrize("operation", FLUSHES, ids=lambda operation: operation.name)
def test_a_flush_that_the_disk_does_not_have_is_withdrawn(
    world: Any, raw_frontend: Any, image: Path, backend_with: Any, engine: str, operation: BlkifOp
) -> None:
    backend_with(errno.EOPNOTSUPP, engine)
    domid = world.attach(str(image))
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)

    def offers() -> dict[str, str]:
        return {key: world.store.read(f"{backend_path(DOM0, domid, XVDA)}/{key}") for key in FLUSHES.values()}

    assert offers() == dict.fromkeys(FLUSHES.values(), "1")
    for _ in range(2):
        (answer,) = frontend.ask(BlkifRequest(operation, 0, 1, 0, 0, ()))
        assert (answer.operation, answer.status) == (operation, BlkifStatus.EOPNOTSUPP)
    withdrawn = {**dict.fromkeys(FLUSHES.values(), "1"), FLUSHES[operation]: "0"}
    world.eventually(lambda: offers() == withdrawn, "the node is rewritten")
    for own, shown in ((S.CLOSED, S.CLOSED), (S.INITIALISING, S.INITWAIT)):
        frontend.switch(own)
        frontend.await_backend(shown)
    frontend.connect()
    frontend.await_backend(S.CONNECTED)
    assert offers() == withdrawn, "the disk is still the same"


@ENGINES
def test_a_frontend_asks_for_no_more_flushes_of_such_a_disk(
    world: Any, image: Path, backend_with: Any, frontend_engine: str, engine: str
) -> None:
    backend_with(errno.EOPNOTSUPP, engine)
    disk = world.disk(domid := world.attach(str(image)), engine=frontend_engine)
    for _ in range(5):
        disk.pwrite(b"w" * 512, 0)
        disk.flush()
    assert world.counts(domid)["f_req"] == 2, "once as a flush, once as a barrier"


@ENGINES
def test_regression_a_failed_flush_is_an_error_for_whoever_flushed(
    world: Any, image: Path, backend_with: Any, frontend_engine: str, engine: str
) -> None:
    """It counted as a success, and so did all that came after it."""
    backend_with(errno.EIO, engine)
    disk = world.disk(domid := world.attach(str(image)), engine=frontend_engine)
    for number in range(1, 4):
        disk.pwrite(b"w" * 512, 0)
        with pytest.raises(OSError, match="status -1") as caught:
            disk.flush()
        assert caught.value.errno == errno.EIO
        assert world.counts(domid)["f_req"] == number
    with pytest.raises(OSError, match="status -1"):
        disk.pwrite(b"w" * 512, 0, fua=True)
    for key in FLUSHES.values():
        assert world.store.read(f"{backend_path(DOM0, domid, XVDA)}/{key}") == "1"


@pytest.fixture(params=["native", "python"])
def frontend_engine(request: pytest.FixtureRequest) -> str:
    """The frontend's engine."""
    return str(request.param)
