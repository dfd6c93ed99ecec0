"""What a disk sleeps on."""

import os
import threading

from xenblk.blkfront.waiting import Waiter


def nr_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_wake_ends_one_wait() -> None:
    waiter, woken = Waiter(), threading.Event()

    def sleep() -> None:
        waiter.wait(20)
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    waiter.wake()
    assert woken.wait(10)
    thread.join()
    waiter.wait(0)


def test_regression_descriptors_live_as_long_as_anybody_sleeps_on_them() -> None:
    before = nr_fds()
    of_the_disk = Waiter()
    of_a_sleeper = of_the_disk
    del of_the_disk
    assert nr_fds() == before + 2
    of_a_sleeper.wake()
    of_a_sleeper.wait(20)
    del of_a_sleeper
    assert nr_fds() == before
