"""A guest that does what it is told: each line written to its console is a command of busybox' shell."""

import itertools
import shlex

from lab.guests import Guest
from lab.machine import LabError

COMMAND_S = 300
# The longest line that Linux takes from a terminal, the newline included, is 4096 bytes.
LINE_BYTES = 4095
# The job of a guest that is to be told more. Its marks are on lines of their own, and differ from what is typed.
JOB = r"""
stty -echo
echo "lab: at your service"
while read -r number line; do
    [ "$number" = end ] && break
    eval "$line"
    printf '\nlab: %s ended with %s\n' "$number" $?
done
"""


class Console:
    """The console of a guest whose job is JOB. One command at a time."""

    def __init__(self, guest: Guest, timeout_s: float = COMMAND_S) -> None:
        self.guest = guest
        self._numbers = itertools.count(1)
        self._ttys: dict[int, str] = {}
        guest.wait("lab: at your service", timeout_s)

    def run(self, command: str, timeout_s: float = COMMAND_S) -> tuple[int, str]:
        """The status of one line of shell, and what it wrote; LabError if it does not end in time."""
        number = f"c{next(self._numbers)}"
        line = f"{number} {command}"
        if "\n" in line or len(line.encode()) >= LINE_BYTES:
            raise ValueError(f"a command is one line of at most {LINE_BYTES} bytes, with its number: {command!r}")
        start = len(self.guest.output())
        self._type(line)
        mark = f"\nlab: {number} ended with "
        said = self.guest.wait(mark, timeout_s)
        while not (status := said[start:].partition(mark)[2].partition("\n"))[1]:
            said = self.guest.output()
        return int(status[0]), said[start:].partition(mark)[0]

    def check(self, command: str, timeout_s: float = COMMAND_S) -> str:
        """What a command that ends with status 0 wrote; LabError if it ends otherwise."""
        status, said = self.run(command, timeout_s)
        if status != 0:
            raise LabError(f"in guest {self.guest.name}, status {status} from: {command}\n{said}")
        return said.strip()

    def end(self) -> None:
        """Let the guest shut down, and wait until Xen has it no more."""
        self._type("end")
        self.guest.machine.check(f"while xl domid {self.guest.name} 2>/dev/null; do sleep 0.2; done", COMMAND_S)

    def _type(self, line: str) -> None:
        domid = self.guest.domid  # another one after a restore
        if domid not in self._ttys:
            self._ttys[domid] = self.guest.machine.check(f"xenstore-read /local/domain/{domid}/console/tty").strip()
        self.guest.machine.check(f"printf '%s\\n' {shlex.quote(line)} >{self._ttys[domid]}")
