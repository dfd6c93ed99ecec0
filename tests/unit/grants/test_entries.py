"""Tables in shared memory, and the garbage collector."""

import gc
import os
import subprocess
import sys

import pytest

from xenblk.grants import GrantTableV1
from xenblk.grants.entries import Entries

CYCLES = """
import gc, os
from xenblk.grants import GnttabDomain, GnttabMapper, GrantTableV1

for _ in range(50):
    table, active, track = (memoryview(bytearray(16 * 64)) for _ in range(3))
    for thing in (GrantTableV1(table), GnttabDomain(7, 1, -1, 4, table, active), GnttabMapper(1, 0, track)):
        thing.itself, thing.views = thing, (table, active, track)
    del thing, table, active, track
gc.collect()
"""


def test_regression_a_table_in_a_reference_cycle_is_collected() -> None:
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_memory_stays_until_close() -> None:
    memory = bytearray(64)
    entries = Entries("xb_grant_entry", memoryview(memory))
    assert entries.nr_entries == 8
    gc.collect()
    with pytest.raises(BufferError):
        memory.extend(bytes(1))
    entries.first[7].flags = 3
    assert memory[56:58] == b"\3\0"
    entries.close()
    memory.extend(bytes(1))


def test_read_only_memory_is_refused() -> None:
    with pytest.raises(BufferError):
        GrantTableV1(memoryview(os.urandom(64)))
