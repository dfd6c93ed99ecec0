"""How fast the rings of an emulated Xen count: what their counters gained from one look to the next."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from xenblk.abi import SECTOR_SIZE, Domid
from xenblk.counters import Counters
from xenblk.toolstack import DiskInfo

ENDS: Final = ("back", "front")
_REQUESTS: Final = ("rd_req", "wr_req", "f_req", "ds_req")


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class RingEnd:
    """One end of one ring of an attached disk."""

    domid: Domid
    handle: int
    queue: int
    end: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Per second, but for `persistent_current`, the grants kept now. `MBps` is in 10^6 bytes.

    A frontend counts what it sends, and nothing else: the rest is None.
    """

    requests_per_s: float | None = None
    MBps: float | None = None
    map_pages_per_s: float | None = None
    unmap_pages_per_s: float | None = None
    copy_pages_per_s: float | None = None
    persistent_hits_per_s: float | None = None
    persistent_current: int | None = None
    notify_sent_per_s: float | None = None


class RateMeter:
    """Looks at counter files, which nobody notices."""

    def __init__(self, counters_dir: Path) -> None:
        self._counters_dir = counters_dir
        self._seen: dict[RingEnd, dict[str, int]] = {}
        self._seen_s = 0.0

    def look(self, disks: Iterable[tuple[DiskInfo, int]], now_s: float) -> dict[RingEnd, Rates]:
        """Rates since the last look of each end of the disks' rings, whose number comes with them; in order.

        Nothing is known of a ring that was not there at the last look. `now_s` is any clock that does not run
        backwards. UsageError for counters of another version.
        """
        counts = dict(sorted(self._counts(disks)))
        passed_s = now_s - self._seen_s
        rates = {ring: _rates(ring.end, self._seen.get(ring), now, passed_s) for ring, now in counts.items()}
        self._seen, self._seen_s = counts, now_s
        return rates

    def _counts(self, disks: Iterable[tuple[DiskInfo, int]]) -> Iterable[tuple[RingEnd, dict[str, int]]]:
        for disk, nr_queues in disks:
            for path in self._counters_dir.glob(f"vbd-{disk.backend_id}-{disk.domid}-{disk.handle}-*"):
                queue, _, end = path.name.rpartition("-")[2].partition(".")
                if end in ENDS and queue.isdecimal() and int(queue) < nr_queues:
                    ring = RingEnd(disk.domid, disk.handle, int(queue), end)
                    if (counts := _snapshot(path)) is not None:
                        yield ring, counts


def _snapshot(path: Path) -> dict[str, int] | None:
    try:
        counters = Counters.open(path)
    except FileNotFoundError:  # its host is gone, or going
        return None
    counts = counters.snapshot()
    counters.close()
    return counts


def _rates(end: str, before: dict[str, int] | None, now: dict[str, int], passed_s: float) -> Rates:
    if before is None or passed_s <= 0 or now["notify_sent"] < before["notify_sent"]:
        return Rates()  # in the last case the host is another

    def per_s(*names: str) -> float:
        return sum(now[name] - before[name] for name in names) / passed_s

    if end == "front":
        return Rates(notify_sent_per_s=per_s("notify_sent"))
    return Rates(
        requests_per_s=per_s(*_REQUESTS),
        MBps=per_s("rd_sect", "wr_sect") * SECTOR_SIZE / 1e6,
        map_pages_per_s=per_s("map_pages"),
        unmap_pages_per_s=per_s("unmap_pages"),
        copy_pages_per_s=per_s("copy_pages"),
        persistent_hits_per_s=per_s("persistent_hits"),
        persistent_current=now["persistent_current"],
        notify_sent_per_s=per_s("notify_sent"),
    )
