"""A frontend that waits for so long waits no longer, whatever comes over xenstore meanwhile."""

import signal
import threading
from typing import Any

from xenblk.abi import DOM0
from xenblk.blkif import BlkifOp
from xenblk.toolstack import backend_path
from xenblk.xenbus import XenbusState

XVDA = 51712
NR_EVENTS = 100


def test_regression_a_storm_of_events_stretches_no_timeout(world: Any) -> None:
    backend = world.backend()
    domid = world.attach()
    frontend = world.frontend(domid)
    backend.signal(signal.SIGSTOP)
    frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(512)))
    polled = threading.Event()
    polling = threading.Thread(target=lambda: (frontend.poll(0.5), polled.set()))
    polling.start()
    for _ in range(NR_EVENTS):
        world.store.write(f"{backend_path(DOM0, domid, XVDA)}/state", str(int(XenbusState.CONNECTED)))
        if polled.wait(0.1):
            break
    ended_in_time = polled.is_set()
    backend.signal(signal.SIGCONT)
    polling.join()
    assert ended_in_time, f"poll had half a second, and was asleep after {NR_EVENTS} events"
