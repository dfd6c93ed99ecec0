"""CPU time of another process, from /proc (proc_pid_stat(5))."""

import os
from pathlib import Path
from typing import Final

_UTIME: Final = 11
_STIME: Final = 12
"""Fields 14 and 15 of the line, counted after the parenthesis that ends the command's name."""


def process_cpu_s(pid: int | None) -> float | None:
    """User and system time in seconds of all threads of process `pid`, to a clock tick; None if there is none."""
    if pid is None:
        return None
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line.rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")
