"""The one command, `xenblk`: every sub-command is a file of this folder.

Exit status: 0 done; 1 it could not be done, with a sentence on standard error that says why; 2 the command was misused;
130 interrupted. No input ends in a traceback.
"""

import importlib
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; ends the process."""
    try:
        # Loaded in here, so that an interrupt while it loads is an interrupt like any other.
        sys.exit(importlib.import_module("xenblk.cli.commands").run())
    except KeyboardInterrupt:
        print("xenblk: interrupted", file=sys.stderr)
        sys.exit(130)
