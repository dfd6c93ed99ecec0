"""Several jobs side by side on one disk, as numjobs of fio: a thread, a queue, a seed and a part of it for each."""

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Final, Self

from xenblk.blkfront import Blkfront
from xenblk.errors import UsageError
from xenblk.harness.native_load import NativeLoad, percentiles_ns
from xenblk.harness.oracle import Initial
from xenblk.harness.workload import Job

_TICK_S: Final = 0.05


class NativeJobs:
    """`job.numjobs` times NativeLoad, as one of them. The first that fails ends all. UsageError if there is no ring
    for each.
    """

    def __init__(self, frontend: Blkfront, job: Job, initial: Initial, stall_timeout_s: float) -> None:
        if frontend.nr_queues < job.numjobs:
            raise UsageError(f"{job.numjobs} jobs need a ring each, and the backend gave {frontend.nr_queues}")
        self._loads = [
            NativeLoad(frontend, job, share, initial, stall_timeout_s) for share in job.shares(frontend.size)
        ]
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            for load in self._loads:
                undo.enter_context(load)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._undo.close()

    def run(self, after_poll: Callable[[], None]) -> None:
        """Run all jobs; `after_poll` is called about twenty times a second."""
        self._side_by_side(lambda load: load.run(lambda: None), after_poll)

    def flush(self) -> None:
        """Flush the disk, once for all."""
        self._loads[0].flush()

    def audit(self) -> None:
        """Read every block that a job touched, and check it once more."""
        self._side_by_side(lambda load: load.audit(), lambda: None)

    @property
    def nr_ios(self) -> int:
        """How many reads and writes of all jobs completed."""
        return sum(load.nr_ios for load in self._loads)

    def percentiles_ns(self, *percents: float) -> list[int]:
        """As of NativeLoad, over the operations of all jobs."""
        return percentiles_ns([load.latencies for load in self._loads], *percents)

    def _side_by_side(self, do: Callable[[NativeLoad], None], after_poll: Callable[[], None]) -> None:
        with concurrent.futures.ThreadPoolExecutor(len(self._loads), thread_name_prefix="job") as pool:
            running = [pool.submit(do, load) for load in self._loads]
            try:
                while self._go_on(running):
                    after_poll()
            finally:
                for load in self._loads:
                    load.stop()
        for future in running:
            future.result()

    @staticmethod
    def _go_on(running: list[concurrent.futures.Future[None]]) -> bool:
        """Wait a little; whether some are running and none has failed."""
        done, others = concurrent.futures.wait(running, _TICK_S, concurrent.futures.FIRST_EXCEPTION)
        return bool(others) and not any(future.exception() for future in done)
