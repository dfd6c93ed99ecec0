"""What the commands have in common that serve until they are stopped."""

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT end the service cleanly."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop())


def allow_many_descriptors() -> None:
    """Each client, domain and channel takes descriptors: have as many as this user may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say_ready(sentence: str) -> None:
    """Tell whoever waits that the service can be used: a line of output, and sd_notify(3) where systemd asks for it."""
    click.echo(sentence)
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """A file with this process's number, as long as the service can be used. OSError as open(2) has it."""
    if path is None:
        yield
        return
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
