"""Queues of one disk that several threads drive in C at the same time."""

import concurrent.futures
import signal
import threading
import time
from typing import Any

import pytest

from xenblk.blkif import BlkifOp
from xenblk.errors import UsageError
from xenblk.harness import Job, run_job

PATIENCE_S = 20


def two_queues(world: Any, **options: Any) -> Any:
    """A frontend with two rings."""
    world.backend("--max-queues", "2")
    return world.frontend(world.attach("memory:1M"), nr_queues=2, **options)


def test_two_threads_have_a_queue_each_and_the_device_goes_on(world: Any) -> None:
    frontend = two_queues(world)
    meeting = threading.Barrier(3, timeout=PATIENCE_S)

    def drive(queue: int) -> None:
        with frontend.native(queue):
            meeting.wait()  # broken if one of them had to wait for the other's end
            meeting.wait()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        driving = [pool.submit(drive, queue) for queue in range(2)]
        meeting.wait()
        assert frontend.nr_queues == 2
        meeting.wait()
        for thread in driving:
            thread.result(PATIENCE_S)
    bio = frontend.submit(BlkifOp.READ, 0, memoryview(bytearray(512)))
    assert frontend.poll() == [bio]


def test_a_queue_is_one_thread_s_at_a_time(world: Any) -> None:
    frontend = two_queues(world)
    events: list[str] = []

    def drive() -> None:
        with frontend.native(1):
            events.append("second")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with frontend.native(1):
            second = pool.submit(drive)
            time.sleep(0.1)
            events.append("first")
        second.result(PATIENCE_S)
    assert events == ["first", "second"]


def test_a_bio_of_python_waits_until_the_queue_is_free(world: Any) -> None:
    frontend = two_queues(world)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with frontend.native(0):
            submitted = pool.submit(frontend.submit, BlkifOp.READ, 0, memoryview(bytearray(512)))
            time.sleep(0.1)
            assert not submitted.done()
        bio = submitted.result(PATIENCE_S)
    assert frontend.poll() == [bio]


def test_there_are_as_many_queues_as_the_backend_gave(world: Any) -> None:
    frontend = two_queues(world)
    for queue in (-1, 2):
        with pytest.raises(UsageError, match=f"the disk's queues are 0 to 1, not {queue}"), frontend.native(queue):
            pass


def test_closing_wakes_whoever_sleeps_in_c(world: Any) -> None:
    """Its thread waits for a backend that answers nothing, without a timer."""
    backend = world.backend()
    frontend = world.frontend(world.attach("memory:1M"))
    job = Job(rw="read", bs=4096, iodepth=4, seed=1, io_size=1 << 20)
    backend.signal(signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(run_job, frontend, job)
            time.sleep(0.2)
            frontend.close(0.1)
            with pytest.raises(OSError, match="disk xvda was closed"):
                running.result(PATIENCE_S)
    finally:
        backend.signal(signal.SIGCONT)
