"""`xenblk xenstored`: the xenstore server alone."""

import signal
from pathlib import Path

import click

from xenblk.cli.service import allow_many_descriptors, pid_file, say_ready, stop_on_signals
from xenblk.xenstore.daemon import XenstoreDaemon, default_socket_path

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--socket",
    "socket_path",
    type=_FILE,
    default=default_socket_path,
    show_default="$XENSTORED_PATH, or socket in $XENSTORED_RUNDIR or /var/run/xenstored",
    help="Where clients connect as domain 0.",
)
@click.option("--pid-file", "pid_path", type=_FILE, help="Write the process id there when ready; removed at the end.")
@click.option("--trace", "trace_path", type=_FILE, help="Append every message to a file; SIGHUP opens it anew.")
def xenstored(socket_path: Path, pid_path: Path | None, trace_path: Path | None) -> None:
    """Run a xenstore for any client, until stopped.

    A domain that is introduced connects at the socket's path with its number: /run/xs.5 beside /run/xs for domain 5.
    """
    allow_many_descriptors()
    with XenstoreDaemon(socket_path, trace_path) as daemon, pid_file(pid_path):
        stop_on_signals(daemon.stop)
        signal.signal(signal.SIGHUP, lambda _number, _frame: daemon.reopen_trace())
        say_ready(f"xenblk xenstored: ready; XENSTORED_PATH={daemon.path}")
        daemon.run()
