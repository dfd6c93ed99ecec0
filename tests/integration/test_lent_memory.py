"""Memory of a frontend's domain that was lent to a backend in place."""

import signal
from typing import Any

import pytest

from xenblk.blkif import BlkifOp

NR_BYTES = 3 * 4096


@pytest.mark.parametrize("engine", ["native", "python"])
def test_regression_memory_that_is_granted_still_is_not_used_again(world: Any, engine: str) -> None:
    """The backend may write to it, and it would be to what the next user of the memory has there."""
    backend = world.backend()
    frontend = world.frontend(world.attach(), feature_persistent=False, engine=engine)
    memory = frontend._platform.memory
    lent = frontend.allocate(NR_BYTES)
    first, _ = memory.locate(lent)
    backend.signal(signal.SIGSTOP)
    bio = frontend.submit(BlkifOp.READ, 0, lent)
    assert frontend.poll(0) == []
    frontend.free(lent)
    frames = [memory.allocate_page().frame for _ in range(100)]
    backend.signal(signal.SIGCONT)
    assert not {first, first + 1, first + 2} & set(frames)
    while bio not in frontend.poll():
        pass
    assert bio.error is None
    later = frontend.allocate(NR_BYTES)
    first, _ = memory.locate(later)
    frontend.free(later)
    assert memory.allocate_page().frame in range(first, first + 3), "what is not granted is used again"
