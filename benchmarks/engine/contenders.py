"""Whatever moves blocks and is compared: the limit, xenblk in its modes, one process alone, other people's servers."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Protocol

from ours import COPY, MAP, PERSISTENT, PYTHON, Mode, Ours, Work, bounded
from programs import Direct, Figures, Ideal, MapCost, run_direct, run_ideal, run_mapcost

from xenblk.abi import BLKIF_MAX_SEGMENTS_PER_REQUEST, PAGE_SIZE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

import clients
import servers

POLL_US: Final = 200
"""How long xenblk's ends poll where polling is compared."""


class Contender(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def prepare(self, work: Work, /) -> bool:
        """Get ready for a work, before its rounds; False if it is none for this one."""

    def run(self, work: Work, seconds: float, /) -> Figures:
        """One round."""


@dataclass(frozen=True)
class Place:
    """Where the two ends run: frontend or client first. They sleep where they share a CPU, and spin where not."""

    name: str
    cpus: tuple[int, int]

    @property
    def one_cpu(self) -> bool:
        """Whether both ends share a CPU."""
        return self.cpus[0] == self.cpus[1]

    @property
    def poll_us(self) -> int:
        """For xenblk's ends."""
        return 0 if self.one_cpu else POLL_US


@dataclass(frozen=True)
class Limit:
    """The ideal ring."""

    copies: Literal[1, 2]
    stores: Literal["plain", "streaming"]
    place: Place
    disk_bytes: int
    name: str = field(init=False)

    def __post_init__(self) -> None:
        copies = "1 copy" if self.copies == 1 else "2 copies"
        object.__setattr__(self, "name", f"limit: {copies}, {self.stores}")

    def prepare(self, work: Work, /) -> bool:
        """The program fills its disk itself."""
        return True

    def run(self, work: Work, seconds: float, /) -> Figures:
        """See Contender."""
        ideal = Ideal(
            op=_op(work),
            order=_order(work),
            block_bytes=work.block_bytes,
            depth=work.depth,
            copies=self.copies,
            stores=self.stores,
            spin_us=0 if self.place.one_cpu else None,
            cpus=self.place.cpus,
            seconds=seconds,
            disk_bytes=self.disk_bytes,
        )
        return replace(run_ideal(ideal), name=self.name)


@dataclass(frozen=True)
class Alone:
    """No second process: io_uring or plain system calls on the file that the others serve."""

    how: Literal["io_uring", "psync"]
    path: Path
    cpu: int
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"no second process, {self.how}")

    def prepare(self, work: Work, /) -> bool:
        """The stamps that this program looks for; plain system calls do one thing at a time."""
        if self.how == "psync" and work.depth > 1:
            return False
        run_direct(self._options(work, 0.01, self.path.stat().st_size))
        return True

    def run(self, work: Work, seconds: float, /) -> Figures:
        """See Contender."""
        return replace(run_direct(self._options(work, seconds, 0)), name=self.name)

    def _options(self, work: Work, seconds: float, fill: int) -> Direct:
        return Direct(
            self.path,
            how=self.how,
            op=_op(work),
            order=_order(work),
            block_bytes=work.block_bytes,
            depth=work.depth,
            wait=max(1, work.depth // 4),
            cpu=self.cpu,
            seconds=seconds,
            fill=fill,
        )


@dataclass(frozen=True)
class Bare:
    """What mapping alone takes: the pages of a block mapped, touched and unmapped by one thread, and nothing else."""

    place: Place
    name: str = field(default="bare map, touch, unmap", init=False)

    def prepare(self, work: Work, /) -> bool:
        """One page at a time, and as many as fit a request."""
        return work.depth == 32

    def run(self, work: Work, seconds: float, /) -> Figures:
        """See Contender. Nothing waits, so all a block's time is CPU time."""
        nr_pages = work.block_bytes // PAGE_SIZE
        batch = min(nr_pages, BLKIF_MAX_SEGMENTS_PER_REQUEST)
        found = run_mapcost(MapCost(batch, unmap="run", cpus=self.place.cpus[::-1], seconds=seconds))
        us = found.ns_per_page * nr_pages / 1e3
        return Figures(self.name, 1e6 / us, us, us, found.cpu_ns_per_page * nr_pages / 1e3)


class Other:
    """A peer's server with a client of ours. PeerError if it cannot be measured."""

    def __init__(self, stack: contextlib.ExitStack, peer: servers.Peer, place: Place, disk_bytes: int) -> None:
        self.name = peer.name
        self._cpu = place.cpus[0]
        self._server = stack.enter_context(servers.serving(peer, disk_bytes, {place.cpus[1]}))
        clients.fill(self._server, self._cpu)

    def prepare(self, work: Work, /) -> bool:
        """The disk is filled."""
        return True

    def run(self, work: Work, seconds: float, /) -> Figures:
        """See Contender."""
        load = clients.Load(work.op, work.order, work.block_bytes, work.depth)
        found = clients.run(self._server, load, seconds, self._cpu)
        return Figures(self.name, found.iops, found.p50_us, found.p99_us, found.cpu_s_per_million)


def _op(work: Work) -> Literal["read", "write"]:
    return "read" if work.op == "read" else "write"


def _order(work: Work) -> Literal["random", "sequential"]:
    return "random" if work.order == "random" else "sequential"


Entry = Callable[[], Contender]
"""Starts a contender."""


def entries(
    stack: contextlib.ExitStack, place: Place, disk_bytes: int, images: tuple[Path, Path], *, peers: bool
) -> dict[str, Entry]:
    """All that can be compared in a place, by name; it ends with `stack`. `images` are two files.

    They are measured in this order: side by side what is held against each other, so that the machine was the same.
    """
    found: dict[str, Entry] = {}
    bare = Bare(place)

    def add(mode: Mode, disk: str = f"memory:{disk_bytes}", what: str = "") -> None:
        name = f"xenblk, {mode.name}{what}"
        found[name] = lambda: Ours(stack, mode, disk, place.cpus, place.poll_us, name)

    for limit in _limits(place, disk_bytes):
        found[limit.name] = lambda limit=limit: limit
    add(PERSISTENT)
    found[bare.name] = lambda: bare
    for mode in (MAP, bounded(32, 4096), COPY, PYTHON):
        add(mode)
    add(PERSISTENT, str(images[0]), ", file")
    if peers:
        for peer in servers.ALL:
            if not (peer.polls and place.one_cpu):
                found[peer.name] = lambda peer=peer: Other(stack, peer, place, disk_bytes)
    for how in ("io_uring", "psync"):
        alone = Alone(how, images[1], place.cpus[0])
        found[alone.name] = lambda alone=alone: alone
    return found


def _limits(place: Place, disk_bytes: int) -> tuple[Limit, ...]:
    return (
        Limit(1, "plain", place, disk_bytes),
        Limit(2, "plain", place, disk_bytes),
        Limit(2, "streaming", place, disk_bytes),
    )
