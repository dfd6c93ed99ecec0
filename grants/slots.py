"""The slot table of the mapping arena: what grants/slots.h describes, over memory of its own."""

from collections.abc import Sequence
from typing import Any

from xenblk._native import ffi, lib
from xenblk.errors import UsageError


class Slots:
    """`nr_slots` slots that never move, the lowest free one handed out first.

    A slot is freed by `cancel`, if it is the newest, or by `scan`. Not thread-safe: the caller has a lock.
    """

    def __init__(self, nr_slots: int) -> None:
        if not 1 <= nr_slots <= lib.XB_SLOTS_MAX:
            raise UsageError(f"a slot table has 1 to {lib.XB_SLOTS_MAX} slots, not {nr_slots}")
        self.nr_slots = nr_slots
        self._entries = ffi.new("struct xb_slot[]", nr_slots)
        self._flags = ffi.new("uint8_t[]", nr_slots)
        self._native = ffi.new("struct xb_slots *")
        lib.xb_slots_init(self._native, self._entries, nr_slots)

    @property
    def nr_live(self) -> int:
        """How many slots are taken."""
        return int(self._native.nr_live)

    @property
    def scan_steps(self) -> int:
        """Live slots and clusters of free ones that all scans met: what they cost."""
        return int(self._native.scan_steps)

    def is_live(self, slot: int) -> bool:
        """Whether a slot is taken."""
        return bool(0 <= slot < self.nr_slots and self._entries[slot].length == lib.XB_SLOTS_NONE)

    def allocate(self) -> int | None:
        """The lowest free slot; None when there is none."""
        slot = lib.xb_slots_allocate(self._native)
        return None if slot == lib.XB_SLOTS_NONE else slot

    def allocate_run(self, length: int) -> int | None:
        """The first of the lowest `length` free slots in a row; None when there is no such run. It ends cancelling."""
        assert length > 0
        slot = lib.xb_slots_allocate_run(self._native, length)
        return None if slot == lib.XB_SLOTS_NONE else slot

    def cancel(self, slot: int) -> None:
        """Free the newest allocation since the last scan that was not cancelled yet."""
        assert slot == self._native.newest, f"slot {slot} is not the newest"
        lib.xb_slots_cancel(self._native, slot)

    def scan(self, done: Sequence[int]) -> list[tuple[int, int]]:
        """Free these live slots. Returns (start, length), one for each cluster that got any of them, in order.

        Such a run reaches from the first to the last of them; what lies between was free already.
        """
        runs = ffi.new("struct xb_slots_run[]", len(done))
        nr_runs = self._scan(done, runs)
        return [(run.start, run.length) for run in runs[0:nr_runs]]

    def free(self, done: Sequence[int]) -> None:
        """Free these live slots, by a scan, for a caller that has no use for runs."""
        self._scan(done, ffi.NULL)

    def _scan(self, done: Sequence[int], runs: Any) -> int:
        flags, nr_live = self._flags, self._native.nr_live
        for slot in done:
            flags[slot] = 1
        nr_runs: int = lib.xb_slots_scan_flags(self._native, flags, runs)
        for slot in done:
            flags[slot] = 0
        assert self._native.nr_live == nr_live - len(done), "only a live slot can be freed, and once"
        return nr_runs

    def _check(self) -> None:
        broken = lib.xb_slots_check(self._native)
        assert broken == lib.XB_SLOTS_SOUND, f"xb_slots_check found {broken}"
