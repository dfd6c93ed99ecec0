"""Boots the machine with a tree's xenblk and runs commands in domain 0: `python -m lab.shell --help`."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from lab.machine import Machine
from lab.tree import archive_tree

HERE = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the commands of the command line, or each line of standard input; the last one's status."""
    parser = argparse.ArgumentParser(prog="python -m lab.shell", description=__doc__)
    parser.add_argument("command", nargs="*", help="bash; without any, each line of standard input is one")
    parser.add_argument("--tree", type=Path, default=HERE, help="whose xenblk domain 0 has (default: this one)")
    parser.add_argument("--folder", type=Path, default=HERE / "build/xen-lab", help="what `make xen-lab` has built")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for each command")
    options = parser.parse_args()
    name = f"shell-{os.getpid()}"
    archive = options.folder / f"{name}.cpio"
    start_s = time.monotonic()
    try:
        archive_tree(options.tree.resolve(), options.folder, archive)
        with Machine(options.folder, [archive], name) as machine:
            said = f"ready after {time.monotonic() - start_s:.0f} s; consoles in {machine.log_folder}"
            print(said, file=sys.stderr, flush=True)
            return _run(machine, options.command or map(str.strip, sys.stdin), options.timeout)
    finally:
        archive.unlink(missing_ok=True)


def _run(machine: Machine, commands: Iterable[str], timeout_s: float) -> int:
    status = 0
    for command in commands:
        start_s = time.monotonic()
        done = machine.run(command, timeout_s)
        status = done.status
        print(done.output)
        print(f"-- {command}: status {status}, {time.monotonic() - start_s:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
