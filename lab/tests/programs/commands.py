"""In domain 0: command lines of xenblk, one after the other, in one Python: to start it takes longest here."""

import shlex
import sys

from xenblk.cli.commands import cli

for line in sys.argv[1:]:
    cli(shlex.split(line), standalone_mode=False)
