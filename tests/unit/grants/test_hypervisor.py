"""The host's side: processes killed in the middle of their work leave nothing behind, and take nothing from others."""

import mmap
import os
import random
import subprocess
import sys
import time
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.grants import GnttabDomain, GrantStatus, pins, release_dead

HANG_S = 120

CHILD = """
import mmap, os, random, sys, threading
from xenblk.grants import CopySegment, GnttabDomain, GnttabMapper, GrantMapper

memory_fd, active_fd, track_fd, ready_fd, owner, seed, *refs = map(int, sys.argv[1:])
memory, active, track = (mmap.mmap(fd, os.fstat(fd).st_size) for fd in (memory_fd, active_fd, track_fd))
domain = GnttabDomain(7, 1, memory_fd, len(memory) // 4096, memoryview(memory)[:4096], memoryview(active))
mapper = GrantMapper(GnttabMapper(owner, 0, memoryview(track)), 512)

def work(dice):
    buffer = memoryview(bytearray(64))
    while True:
        held = mapper.map(domain, dice.choices(refs, k=24), readonly=dice.random() < 0.5)
        assert all(mapping.page for mapping in held)
        statuses = mapper.copy(domain, [CopySegment(ref, 0, buffer, dice.random() < 0.5) for ref in refs])
        assert not any(statuses)
        mapper.unmap(held)

for number in range(2):
    threading.Thread(target=work, args=(random.Random(seed + number),)).start()
os.eventfd_write(ready_fd, 1)
"""


class Victim:
    """A process of its own that maps, copies and unmaps without end."""

    def __init__(self, world: Any, refs: list[int], seed: int) -> None:
        self.owner = world.maptrack()
        ready = os.eventfd(0)
        fds = (world.memory_fd, world.active_fd, world.maptrack_fds[self.owner], ready)
        arguments = map(str, (*fds, self.owner, seed, *refs))
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], pass_fds=fds, stderr=subprocess.PIPE)
        os.eventfd_read(ready)
        os.close(ready)

    def kill(self) -> bytes:
        """Kill it, and return what it complained of."""
        self.process.kill()
        _, errors = self.process.communicate(timeout=HANG_S)
        return bytes(errors)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_in_the_middle_of_its_work(world: Any, seed: int) -> None:
    """Two processes share references with a surviving mapper that goes on while they are killed and released."""
    dice = random.Random(seed)
    refs = [world.grant(frame) for frame in range(1, 9)]
    survivor = world.mapper()
    held = [*survivor.map(world.domain, refs[:4]), *survivor.map(world.domain, refs[2:6], readonly=True)]
    victims = [Victim(world, refs, seed * 100 + number) for number in range(2)]
    try:
        until = time.monotonic() + dice.uniform(0.0, 0.1)
        while time.monotonic() < until:
            extra = survivor.map(world.domain, refs)
            assert all(mapping.status == GrantStatus.OKAY for mapping in extra)
            survivor.unmap(extra)
    finally:
        complaints = [victim.kill() for victim in victims]
    assert complaints == [b"", b""], f"seed {seed}"
    for victim in victims:
        world.release(victim.owner)
        assert world.release(victim.owner) == 0, "a second time there is nothing left"
    world.check()
    expected = {ref: (int(2 <= i < 6), int(i < 4)) for i, ref in enumerate(refs[:6])}
    assert world.pins() == expected, f"seed {seed}"
    survivor.unmap(held)
    for ref in refs:
        assert world.table.end_access(ref)
    world.check()


def test_release_counts_and_spares_others(world: Any) -> None:
    refs = [world.grant(frame) for frame in range(1, 6)]
    dead, survivor = world.mapper(), world.mapper()
    dead.map(world.domain, refs)
    dead.map(world.domain, refs[:2], readonly=True)
    held = survivor.map(world.domain, refs[:1], readonly=True)
    assert not world.table.end_access(refs[4])
    assert world.release(1) == 7
    assert world.pins() == {refs[0]: (1, 0)}
    assert world.flags(refs[0]) == 1 | 8
    assert all(world.table.end_access(ref) for ref in refs[1:])
    assert not world.table.end_access(refs[0])
    survivor.unmap(held)
    assert world.table.end_access(refs[0])
    world.check()
    world.mappers.remove(dead)


def test_release_is_per_domain(world: Any, make_world: Any) -> None:
    """One maptrack has the mappings of all domains; each is found by its instance."""
    other = make_world()
    tables = other.domain
    again = GnttabDomain(Domid(7), 2, other.memory_fd, other.nr_frames, tables.table[:], tables.active[:])
    mapper = world.mapper()
    here, there = world.grant(), other.grant()
    mapper.map(world.domain, [here] * 3)
    mapper.map(again, [there] * 2)
    track = memoryview(world.maptracks[1])
    assert release_dead(1, track, [world.domain], []) == 3
    assert (world.pins(), other.pins()) == ({}, {there: (0, 2)})
    assert release_dead(1, track, [world.domain, again], []) == 2
    assert other.pins() == {}
    world.mappers.remove(mapper)
    again.close()


def test_pins_of_an_active_table() -> None:
    active = mmap.mmap(-1, 4 * 16)
    assert pins(memoryview(active)) == {}
    active[16 + 10], active[16 + 11], active[48 + 11] = 3, 255, 1
    assert pins(memoryview(active)) == {1: (3, 255), 3: (0, 1)}


@pytest.mark.parametrize("half_done", [False, True], ids=["before the pin was counted", "after"])
def test_a_lock_held_at_death_is_taken_over(world: Any, half_done: bool) -> None:
    """While the dead process's lock stands, its counts are worth nothing: those who live are counted again."""
    ref = world.grant()
    dead, survivor = world.mapper(), world.mapper()
    dead.map(world.domain, [ref, ref], readonly=True)
    held = survivor.map(world.domain, [ref, ref])
    entry = ref * 16
    world.active[entry : entry + 4] = (1).to_bytes(4, "little")
    world.active[entry + 10] = 3 if half_done else 2
    assert world.release(1) == 2
    world.check()
    assert world.pins() == {ref: (0, 2)}
    survivor.unmap(held)
    assert world.table.end_access(ref)
    world.mappers.remove(dead)


def test_two_die_at_once_and_one_held_the_lock(world: Any) -> None:
    """The first to be released cannot have the lock that the second one left; releasing both still leaves nothing."""
    ref = world.grant()
    first, second, survivor = world.mapper(), world.mapper(), world.mapper()
    first.map(world.domain, [ref])
    second.map(world.domain, [ref], readonly=True)
    held = survivor.map(world.domain, [ref])
    world.active[ref * 16 : ref * 16 + 4] = (2).to_bytes(4, "little")
    alive = [memoryview(world.maptracks[3])]
    release_dead(1, memoryview(world.maptracks[1]), [world.domain], alive)
    release_dead(2, memoryview(world.maptracks[2]), [world.domain], alive)
    assert world.pins() == {ref: (0, 1)}
    assert world.flags(ref) == 1 | 8 | 16
    survivor.unmap(held)
    assert world.table.end_access(ref)
    for mapper in (first, second):
        world.mappers.remove(mapper)
