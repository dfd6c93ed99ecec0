"""What one run measured, as it travels between processes and into tables and plots."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

LEVELS: Final = frozenset({"persistent_current", "persistent_peak", "persistent_in_use"})
"""The counters that are a level, not a sum."""

_REQUESTS: Final = ("rd_req", "wr_req", "f_req", "ds_req")


def count_requests(counters: Mapping[str, int], nr_ios: int) -> int:
    """How many requests the backend served: a large operation is several. `nr_ios` where it does not count them."""
    return sum(counters.get(name, 0) for name in _REQUESTS) or nr_ios


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """One workload in one mode. The names of the fields are those of the JSON object.

    `iodepth` is each job's; all else is of the `numjobs` jobs and their rings together.

    `ios` counts reads and writes, of `bytes` in all; `requests` what the backend saw of them on the ring, flushes
    included. `secs` is the time from the first submission to the end of the last flush; `MBps` is in 10^6 bytes per
    second. Latencies are from submission to completion of reads and writes; with the native engine they are rounded up
    by less than 2 per cent. `counters` is what the run added to each counter, or where a counter is a level, the level
    at the end. `backend_cpu_s` is None, and a counter missing, where nobody could tell. `verified` says that every
    read, and at the end every block touched, was checked.
    """

    mode: str
    engine: str
    rw: str
    bs: int
    iodepth: int
    numjobs: int
    ios: int
    secs: float
    iops: float
    MBps: float
    p50_us: float
    p99_us: float
    frontend_cpu_s: float
    backend_cpu_s: float | None
    counters: dict[str, int]
    verified: bool
    seed: int
    bytes: int
    requests: int

    def to_dict(self) -> dict[str, Any]:
        """The fields, in order."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One object on one line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The result of `to_dict`; TypeError if a field is missing or too many."""
        return cls(**fields)


def modes_json(results: Sequence[BenchResult]) -> str:
    """{"modes": [...]}, one object per mode, in the order of the runs."""
    modes: list[dict[str, Any]] = [result.to_dict() for result in results]
    return json.dumps({"modes": modes}, indent=2)
