"""CPU time of other processes, against what this one knows of itself."""

import os
import subprocess
import sys
import time

from xenblk.harness.cpu import process_cpu_s


def test_own_time_agrees_with_the_clock_of_the_process() -> None:
    while time.process_time() < 0.1:
        pass
    before_s = time.process_time()
    found_s = process_cpu_s(os.getpid())
    after_s = time.process_time()

    assert found_s is not None
    assert before_s - 0.05 <= found_s <= after_s + 0.05


def test_a_name_with_spaces_and_parentheses_does_not_confuse() -> None:
    code = "open('/proc/self/comm', 'w').write(') R 1 9'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found_s = process_cpu_s(child.pid)
        child.communicate(b"\n")

    assert found_s is not None
    assert 0 <= found_s < 60


def test_no_process_no_time() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert process_cpu_s(child.pid) is None
    assert process_cpu_s(None) is None
