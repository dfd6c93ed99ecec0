"""`python -m xenblk.harness.doubles NAME`: a double of a known backend serves the emulated Xen of $XENBLK_RUN_DIR.

It serves the disks of domain 0 until it is told to stop, or the host ends.
"""

import signal
import sys
from pathlib import Path

from xenblk.abi import DOM0
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.emulated.rundir import default_run_dir
from xenblk.errors import XenblkError
from xenblk.harness.doubles.backend_quirks import QUIRKS
from xenblk.harness.doubles.backends import BackendDouble


def serve(name: str, run_dir: Path) -> None:
    """Be the backend `name`. XenblkError if no host is there."""
    platform = EmulatedPlatform(run_dir, DOM0)
    try:
        double = BackendDouble(QUIRKS[name], platform)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: double.stop())
        print(f"double of {name}: ready; serves the disks of domain 0", flush=True)
        double.run()
    finally:
        platform.close()


def main(args: list[str]) -> None:
    """Say in a sentence what is wrong, if something is."""
    if len(args) != 1 or args[0] not in QUIRKS:
        sys.exit(f"a double of a backend is one of {', '.join(QUIRKS)}, not {' '.join(args)!r}")
    try:
        serve(args[0], default_run_dir())
    except XenblkError as e:
        sys.exit(f"double of {args[0]}: {e}")


if __name__ == "__main__":
    main(sys.argv[1:])
