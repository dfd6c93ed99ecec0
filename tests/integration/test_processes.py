"""A program that is started is a process group in our session, and its group ends with it."""

import contextlib
import os
import select
import signal
import sys

from xenblk.processes import Program

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def test_it_has_a_group_of_its_own_in_our_session() -> None:
    """A session of its own would be a scheduling group of its own (sched_autogroup): each switch costs more."""
    with Program([sys.executable, "-c", PARENT]) as program:
        program.readline()
        assert os.getpgid(program.pid) == program.pid != os.getpgid(0)
        assert os.getsid(program.pid) == os.getsid(0)


def test_what_it_started_ends_with_it() -> None:
    with Program([sys.executable, "-c", PARENT]) as program:
        child = os.pidfd_open(int(program.readline()))
    try:
        assert select.select([child], [], [], 10)[0] == [child]  # readable: it has ended, whoever waits for it now
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
