"""The platform of real Xen: what Linux in a domain gives to its processes under /dev/xen."""

import os
from pathlib import Path
from typing import Final

RUN_DIR: Final = Path("/run/xenblk")
"""Where the counters are, unless $XENBLK_RUN_DIR says so."""


def run_dir() -> Path:
    """$XENBLK_RUN_DIR, else RUN_DIR."""
    return Path(os.environ.get("XENBLK_RUN_DIR", RUN_DIR))
