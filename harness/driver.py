"""Keeps operations in flight on a frontend, times each of them, and holds what comes back against the oracle.

    take an operation, fill a buffer, submit ... | poll, take the time, check | and again, until the stream ends

Filling and checking happen between two polls: they cost this process time, but are part of no operation's own latency
unless it completes meanwhile.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Self

from xenblk.blkif import BlkifOp
from xenblk.harness.frontend import Bio, Frontend
from xenblk.harness.latency import LatencyLog
from xenblk.harness.oracle import Oracle
from xenblk.harness.workload import NO_BLOCK, Issuer, Operation

_POLL_S: Final = 1.0
_POISON: Final = b"\xa5"


class _InFlight(NamedTuple):
    operation: Operation
    buffer: memoryview
    submitted_ns: int


class Driver:
    """Runs streams of operations on blocks of `bs` bytes, `iodepth` at a time. Its buffers live as long as a `with`.

    With an oracle, writes get its content and reads are checked by it; without, nobody looks at the data. When a run
    ends by an exception, what was in flight is waited for first, unless the frontend stalled.
    """

    def __init__(
        self, frontend: Frontend, bs: int, iodepth: int, oracle: Oracle | None, stall_timeout_s: float
    ) -> None:
        self._frontend = frontend
        self._bs = bs
        self._iodepth = iodepth
        self._oracle = oracle
        self._stall_timeout_s = stall_timeout_s
        self._poison = _POISON * bs
        self._buffers: list[memoryview] = []
        self._in_flight: dict[Bio, _InFlight] = {}
        self._stalled = False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            for _ in range(self._iodepth):
                buffer = self._frontend.allocate(self._bs)
                undo.callback(self._frontend.free, buffer)
                self._buffers.append(buffer)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._in_flight:
            # The other side may still write there: the buffers stay allocated until the frontend is closed.
            self._undo.pop_all()
        self._undo.close()

    def run(
        self, stream: Iterator[Operation], latencies: LatencyLog, after_poll: Callable[[], None] = lambda: None
    ) -> None:
        """Run the stream to its end; the latencies of its reads and writes are added to `latencies`.

        OSError if an operation fails, ETIMEDOUT if none completes for the stall timeout, VerifyError for wrong data.
        """
        issuer = Issuer(stream, self._iodepth)
        try:
            while self._fill(issuer):
                self._collect(issuer, latencies)
                after_poll()
        except Exception:
            self._drain()
            raise

    def _fill(self, issuer: Issuer) -> bool:
        """Submit until `iodepth` operations are in flight; whether any is."""
        while self._buffers and (operation := issuer.take()) is not None:
            buffer = self._buffers.pop()
            self._prepare(operation, buffer)
            submitted_ns = time.perf_counter_ns()
            if operation.block == NO_BLOCK:
                bio = self._frontend.submit(operation.op)
            else:
                bio = self._frontend.submit(operation.op, operation.block * self._bs, buffer)
            self._in_flight[bio] = _InFlight(operation, buffer, submitted_ns)
        return bool(self._in_flight)

    def _prepare(self, operation: Operation, buffer: memoryview) -> None:
        if self._oracle is None or operation.block == NO_BLOCK:
            return
        if operation.op == BlkifOp.WRITE:
            self._oracle.write(operation.block, buffer)
        else:
            # What a read fails to bring must not look right because the buffer held it before.
            buffer[:] = self._poison

    def _collect(self, issuer: Issuer, latencies: LatencyLog) -> None:
        bios = self._poll()
        completed_ns = time.perf_counter_ns()
        # Forget all of them before the first may raise, or they would be waited for again.
        finished = [(bio, self._in_flight.pop(bio)) for bio in bios]
        for bio, (operation, buffer, submitted_ns) in finished:
            if bio.error is not None:
                raise self._explained(operation, bio.error) from bio.error
            if operation.block != NO_BLOCK:
                latencies.record(completed_ns - submitted_ns)
            if self._oracle is not None and operation.op == BlkifOp.READ:
                self._oracle.check(operation.block, buffer)
            issuer.done(operation)
            self._buffers.append(buffer)

    def _explained(self, operation: Operation, error: OSError) -> OSError:
        what = "the flush"
        if operation.block != NO_BLOCK:
            what = f"the {operation.op.name.lower()} of {self._bs} bytes at offset {operation.block * self._bs}"
        return OSError(error.errno or errno.EIO, f"{what} failed: {error.strerror or error}")

    def _poll(self) -> Sequence[Bio]:
        give_up_s = time.monotonic() + self._stall_timeout_s
        while not (bios := self._frontend.poll(min(_POLL_S, self._stall_timeout_s))):
            if time.monotonic() >= give_up_s:
                self._stalled = True
                count = len(self._in_flight)
                raise OSError(
                    errno.ETIMEDOUT, f"none of {count} operations in flight completed for {self._stall_timeout_s:g} s"
                )
        return bios

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self._in_flight and not self._stalled:
                for bio in self._poll():
                    del self._in_flight[bio]
