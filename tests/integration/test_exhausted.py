"""A backend that runs out of something refuses who comes then, and serves the others."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.xenbus import XenbusState

ENOUGH = 20


def nr_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_regression_a_connection_without_descriptors_is_refused(
    world: Any, raw_frontend: Callable[..., Any], image: Path
) -> None:
    """With none left, then with one, and so on until a connection has what it needs."""
    backend = world.backend()
    neighbour = world.disk(world.attach())
    domid = world.attach(str(image))
    frontend = raw_frontend(domid)
    frontend.await_backend(XenbusState.INITWAIT)
    used, limits = nr_descriptors(backend.pid), resource.prlimit(backend.pid, resource.RLIMIT_NOFILE)
    decided = (XenbusState.CLOSING, XenbusState.CONNECTED)
    for spare in range(ENOUGH):
        resource.prlimit(backend.pid, resource.RLIMIT_NOFILE, (used + spare, limits[1]))
        frontend.connect()
        world.eventually(lambda: world.backend_state(domid) in decided, f"an answer with {spare} descriptors")
        if world.backend_state(domid) is XenbusState.CONNECTED:
            break
        assert "no room for a connection" in world.error_of(domid)
        assert (nr_descriptors(backend.pid), world.pins(domid)) == (used, 0), f"left behind with {spare} descriptors"
        neighbour.pwrite(b"x" * 512, 0)
        frontend.switch(XenbusState.CLOSED)
        frontend.await_backend(XenbusState.CLOSED)
        frontend.switch(XenbusState.INITIALISING)
        frontend.await_backend(XenbusState.INITWAIT)
    assert 0 < spare < ENOUGH - 1
    resource.prlimit(backend.pid, resource.RLIMIT_NOFILE, limits)
    ref, _page = frontend.page()
    (answer,) = frontend.ask(BlkifRequest(BlkifOp.READ, 0, 1, 0, 1, (BlkifSegment(ref, 0, 7),)))
    assert answer.status == BlkifStatus.OKAY
