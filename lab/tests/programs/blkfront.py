"""In domain 0: conformance cases for frontends against a guest's driver, the backend by hand; disk.c is in the guest.

Usage: blkfront.py DOMID SECONDS CASES..., with how long the frontend may take for anything. A line of JSON for each
case says how it ended. Cases that are missing have not been run: the guest does not answer any more.
"""

import contextlib
import errno
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from xenblk.abi import DOM0, SECTOR_SIZE, Domid
from xenblk.harness.conform.case import run_cases
from xenblk.harness.conform.frontend import FRONTEND, FrontendKind, FrontendLab
from xenblk.harness.conform.frontend.subject import Options
from xenblk.harness.conform.real import RealXen
from xenblk.harness.wire.deadline import patience, patience_s
from xenblk.xen.platform import XenPlatform

T = TypeVar("T")
BOOT_S = 300
QUIET_S = 0.4
REPEATED = 8
PARAMETERS = {
    "ring_page_order": "max_ring_page_order",
    "nr_queues": "max_queues",
    "max_indirect_segments": "max_indirect_segments",
    "feature_persistent": "feature_persistent",
    "trusted": "trusted",
}
"""Of xen-blkfront, by our own frontend's names."""


class Console:
    """The console of a guest that disk.c has: commands in, and answers in any order."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[str]] = {0: Future()}
        self.ready = self._asked[0]
        threading.Thread(target=self._read, name="console", daemon=True).start()

    def ask(self, *words: object) -> Future[str]:
        """Have a command done; its result, or the OSError."""
        number = next(self._numbers)
        done = self._asked[number] = Future()
        line = " ".join(map(str, (number, *words))).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]
        return done

    def _read(self) -> None:
        with os.fdopen(self._fd, "rb", closefd=False) as output, contextlib.suppress(OSError):  # the guest has ended
            for line in output:
                self._take(line.decode(errors="replace").strip("\r\n"))

    def _take(self, line: str) -> None:
        mark, _, answer = line.partition("@")
        if mark or not answer:
            return  # what the kernel says
        number, error, result = answer.split(" ", 2)
        done = self._asked.pop(int(number))
        if error == "0":
            done.set_result(result)
        else:
            done.set_exception(OSError(int(error), os.strerror(int(error))))


@dataclass
class Guest:
    """The guest, and whether it can be asked no more."""

    domid: Domid
    console: Console
    is_stuck: bool = False

    def start(self, options: Options) -> "Disk":
        """Its one disk, whose driver is to be loaded with these options."""
        return Disk(self, " ".join(f"{PARAMETERS[name]}={int(value)}" for name, value in options.items()))


class Disk:
    """See FrontendUnderTest, whose calls these are."""

    def __init__(self, guest: Guest, parameters: str) -> None:
        self._guest, self._parameters = guest, parameters

    def _ask(self, convert: Callable[[str], T], *words: object) -> Future[T]:
        done: Future[T] = Future()

        def settle(answer: Future[str]) -> None:
            error = answer.exception()
            if error is None:
                done.set_result(convert(answer.result()))
            else:
                done.set_exception(error)

        self._guest.console.ask(*words).add_done_callback(settle)
        return done

    def _look(self, name: str) -> int:
        return self._ask(int, "look", f"/sys/block/xvda/{name}").result(patience_s())

    @property
    def size(self) -> int:
        return self._look("size") * SECTOR_SIZE

    @property
    def read_only(self) -> bool:
        return bool(self._look("ro"))

    @property
    def offers_discard(self) -> bool:
        return True

    def connect(self) -> Future[None]:
        return self._ask(_nothing, "connect", self._parameters)

    def read(self, offset: int, nr_bytes: int) -> Future[bytes]:
        return self._ask(_data, "read", offset, nr_bytes)

    def write(self, offset: int, data: bytes) -> Future[None]:
        return self._ask(_nothing, "write", offset, _text(data))

    def flush(self) -> Future[None]:
        return self._ask(_nothing, "flush")

    def discard(self, offset: int, nr_bytes: int) -> Future[None]:
        return self._ask(_nothing, "discard", offset, nr_bytes)

    def close(self) -> Future[None]:
        return self._ask(_nothing, "close")

    def stop(self) -> None:
        """Wait until the guest has seen that the device is gone."""
        try:
            error = self._ask(_nothing, "gone").exception(patience_s())
        except TimeoutError:
            error = OSError(errno.ETIMEDOUT, "the device does not go")
        self._guest.is_stuck |= error is not None


def _nothing(_answer: str) -> None:
    return


def _data(text: str) -> bytes:
    """As disk.c says it: by sectors."""
    data, at = b"", 0
    while at < len(text):
        given = REPEATED if text[at] == "." else SECTOR_SIZE
        data += bytes.fromhex(text[at + 1 : at + 1 + 2 * given]) * (SECTOR_SIZE // given)
        at += 1 + 2 * given
    return data


def _text(data: bytes) -> str:
    sectors = (data[at : at + SECTOR_SIZE] for at in range(0, len(data), SECTOR_SIZE))
    return "".join(f".{s[:REPEATED].hex()}" if s[REPEATED:] == s[:-REPEATED] else f":{s.hex()}" for s in sectors)


def main() -> None:
    """The cases, until the guest is stuck."""
    host = XenPlatform(DOM0)
    with RealXen() as xen, patience(float(sys.argv[2])):
        domid = Domid(int(sys.argv[1]))
        guest = Guest(domid, Console(xen.store.read(f"/local/domain/{domid}/console/tty")))
        guest.console.ready.result(BOOT_S)
        kind = FrontendKind(
            "Linux",
            lambda linux, _handle, options: linux.start(options),
            frozenset(PARAMETERS),
            needs_new_nodes=True,
            quiet_s=QUIET_S,
        )
        lab = FrontendLab(kind, xen, host, lambda: contextlib.nullcontext(guest))
        for outcome in run_cases([case for name in sys.argv[3:] for case in FRONTEND.select([name])], lab.stage):
            print(json.dumps(outcome.as_dict()), flush=True)
            if guest.is_stuck:
                break
    # A thread that waits for a console that says nothing more ends with the process only.
    host.close()
    sys.stdout.flush()
    os._exit(0)


main()
