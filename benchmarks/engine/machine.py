"""What others took of this machine's CPUs while something was measured."""

import os
import time
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class Foreign:
    """CPU time of everything but this process and its descendants, from its making on."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def cpus(self) -> float:
        """How many CPUs others kept busy since, on average; ticks are 10 ms, so a short time tells little."""
        elapsed_s = time.monotonic() - self._start_s
        foreign_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, foreign_s / elapsed_s)


def _busy_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def _own_s() -> float:
    """Of this process and those below it, living, or dead and waited for."""
    parents: dict[int, int] = {}
    times_s: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        times_s[pid] = sum(map(int, fields[11:15])) * _TICK_S
    return sum(seconds for pid, seconds in times_s.items() if _descends(pid, os.getpid(), parents))


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1 and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor
