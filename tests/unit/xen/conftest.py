"""What a Linux in a domain of Xen has, as far as files can have it: a folder as its root, and a xenstore there."""

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenblk.xen.devices import Devices
from xenblk.xenstore.daemon import XenstoreDaemon


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    """Devices below a root that has none. Its path is short, as that of a socket has to be."""
    for name in ("XENSTORED_PATH", "XENSTORED_RUNDIR", "XENBLK_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="xen-") as folder:
        (Path(folder) / "dev/xen").mkdir(parents=True)
        yield Devices(Path(folder))


@pytest.fixture
def store_path(devices: Devices) -> Iterator[Path]:
    """A xenstore where domain 0 looks for it, as which it takes its clients."""
    daemon = XenstoreDaemon(devices.root / "run/xenstored/socket")
    thread = threading.Thread(target=daemon.run)
    thread.start()
    yield daemon.path
    daemon.stop()
    thread.join()
    daemon.close()


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """As many descriptors after a test as before it."""
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)
