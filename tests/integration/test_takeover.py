"""A new backend under a frontend that an earlier one left behind, with a ring on it and no word of what it did.

A disk in memory ends with its backend, so nobody may go on for that; test_inheritance.py has the others.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenblk.abi import DOM0
from xenblk.blkfront.connection import Ring
from xenblk.blkif import BlkifOp, BlkifRequest, BlkifSegment, BlkifStatus
from xenblk.toolstack import backend_path
from xenblk.xenbus import XenbusState

XVDA = 51712


def read_request(frontend: Any, number: int) -> BlkifRequest:
    ref, _page = frontend.page()
    return BlkifRequest(BlkifOp.READ, 0, number, 0, 1, (BlkifSegment(ref, 0, 0),))


def test_a_new_backend_takes_over_a_ring_that_nothing_is_on(world: Any, raw_frontend: Callable[..., Any]) -> None:
    first = world.backend()
    frontend = raw_frontend(world.attach())
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    frontend.ask(read_request(frontend, 1))
    first.kill()
    world.backend()
    frontend.await_backend(XenbusState.INITWAIT)
    frontend.await_backend(XenbusState.CONNECTED)
    assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY


@pytest.mark.parametrize("starts_over", [True, False])
def test_a_new_backend_serves_no_request_that_a_dead_one_may_have_answered(
    world: Any, raw_frontend: Callable[..., Any], starts_over: bool
) -> None:
    first = world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    first.kill()
    frontend.ring.sring.put(frontend.abi.pack_request(read_request(frontend, 1)))
    frontend.ring.sring.push()
    world.backend()
    frontend.await_backend(XenbusState.INITWAIT)
    if starts_over:
        frontend.switch(XenbusState.INITIALISING)
        frontend.ring = Ring(frontend.platform, DOM0)
        frontend.keys = frontend.ring.keys()
        frontend.connect()
        frontend.await_backend(XenbusState.CONNECTED)
        assert frontend.ask(read_request(frontend, 2))[0].status == BlkifStatus.OKAY
    else:
        frontend.await_backend(XenbusState.CLOSING)
        assert "a backend died with requests on this ring" in world.error_of(domid)
        assert frontend.ring.sring.consume() is None


@pytest.mark.parametrize("meanwhile", ["no disk", "another that dies", "stopped"])
def test_regression_an_old_ring_stays_old(
    world: Any, raw_frontend: Callable[..., Any], image: Path, meanwhile: str
) -> None:
    """Whatever comes between the end of a backend and the next one's connection."""
    first = world.backend()
    domid = world.attach("memory:4M" if meanwhile == "another that dies" else str(image))
    frontend = raw_frontend(domid)
    frontend.connect()
    frontend.await_backend(XenbusState.CONNECTED)
    first.stop() if meanwhile == "stopped" else first.kill()
    frontend.ring.sring.put(frontend.abi.pack_request(read_request(frontend, 1)))
    frontend.ring.sring.push()
    params = f"{backend_path(DOM0, domid, XVDA)}/params"
    if meanwhile == "no disk":
        world.store.rm(params)
    second = world.backend()
    if meanwhile != "stopped":
        frontend.await_backend(XenbusState.INITWAIT)
    if meanwhile == "another that dies":
        second.kill()
        world.backend()
    if meanwhile == "no disk":
        time.sleep(1.3)
        world.store.write(params, str(image))
    frontend.await_backend(XenbusState.CLOSING)
    assert "a backend died with requests on this ring" in world.error_of(domid)
    assert frontend.ring.sring.consume() is None


@pytest.mark.parametrize("starts_over", [True, False])
def test_regression_a_frontend_that_notices_late_is_not_refused(
    world: Any, raw_frontend: Callable[..., Any], starts_over: bool
) -> None:
    """It answered a backend that died in the middle of the handshake, and had offered more than the new one does."""
    first = world.backend()
    domid = world.attach()
    frontend = raw_frontend(domid)
    frontend.await_backend(XenbusState.INITWAIT)
    first.kill()
    frontend.connect(multi_queue_num_queues="2")
    world.backend("--max-queues", "1")
    if starts_over:
        time.sleep(1.5)
        assert world.error_of(domid) == ""
        frontend.switch(XenbusState.INITIALISING)
        frontend.connect(multi_queue_num_queues="1")
        frontend.await_backend(XenbusState.CONNECTED)
        assert frontend.ask(read_request(frontend, 1))[0].status == BlkifStatus.OKAY
    else:
        frontend.await_backend(XenbusState.CLOSING)
        assert "guest requested 2 queues" in world.error_of(domid)
