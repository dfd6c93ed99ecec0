"""A plugin of pytest under which pyxs's own tests run as they are: they want to be in domain 0, and an older pytest."""

import os

import pytest
import pyxs

_exists = os.path.exists


def _exists_in_domain_0(path: str) -> bool:
    return path == "/dev/xen" or _exists(path)


os.path.exists = _exists_in_domain_0  # type: ignore[assignment]
pyxs.Client.SU = True
pytest.yield_fixture = pytest.fixture  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: a thread of a test may still write when the client is closed, and pyxs then waits for ever."""
    config.get_terminal_writer().flush()
    os._exit(0)
