"""Two processes play ping-pong through a ring and two eventfds: a wake-up that is lost hangs one of them."""

import mmap
import os
import select
import subprocess
import sys

from xenblk.ring import FrontRing

ROUNDS = 100_000
HANG_S = 120

SERVER = """
import mmap, os, sys
from xenblk.ring import BackRing
memory, wake_back, wake_front, rounds = map(int, sys.argv[1:])
ring = BackRing(memoryview(mmap.mmap(memory, 4096)), 112)
while rounds:
    while (request := ring.consume()) is not None:
        ring.put(request[:8][::-1].ljust(112, b"s"))
        rounds -= 1
        if ring.push():
            os.eventfd_write(wake_front, 1)
    if rounds and not ring.final_check():
        os.eventfd_read(wake_back)
"""


def _exchange(ring: FrontRing, request: bytes, wake_back: int, wake_front: int) -> bytes:
    ring.put(request)
    if ring.push():
        os.eventfd_write(wake_back, 1)
    while (response := ring.consume()) is None:
        if not ring.final_check():
            assert select.select([wake_front], [], [], HANG_S)[0], "the response came without a notification"
            os.eventfd_read(wake_front)
    return response


def test_no_wakeup_is_lost() -> None:
    memory = os.memfd_create("ring")
    os.ftruncate(memory, 4096)
    ring = FrontRing(memoryview(mmap.mmap(memory, 4096)), 112)
    wake_back, wake_front = os.eventfd(0), os.eventfd(0)
    fds = (memory, wake_back, wake_front)
    server = subprocess.Popen([sys.executable, "-c", SERVER, *map(str, fds), str(ROUNDS)], pass_fds=fds)
    try:
        for number in range(ROUNDS):
            response = _exchange(ring, number.to_bytes(8, "little").ljust(112, b"q"), wake_back, wake_front)
            assert response == number.to_bytes(8, "big").ljust(112, b"s")
        assert server.wait(HANG_S) == 0
    finally:
        server.kill()
        server.wait()
        for fd in fds:
            os.close(fd)
