"""A frontend follows what its backend unmaps: both ends' idle grants end, without a request."""

from typing import Any

import pytest

from xenblk.blkfront.connection import DataPath
from xenblk.blkif import BlkifOp

FASTER = 100
"""The walk's 10 s are 0.1 s here."""


@pytest.mark.parametrize("engine", ["native", "python"])
def test_idle_grants_end_on_both_sides(world: Any, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    reclaim = DataPath.reclaim

    def reclaim_sooner(path: DataPath, now_ns: int) -> None:
        kept.append(path.engine.persistent_gnts_c)
        reclaim(path, now_ns * FASTER)

    monkeypatch.setattr(DataPath, "reclaim", reclaim_sooner)
    world.backend("--persistent-grant-unused-seconds", "1", "--engine", engine)
    frontend = world.frontend(world.attach("memory:1M"), engine=engine)
    bio = frontend.submit(BlkifOp.WRITE, 0, memoryview(bytes(1 << 15)))
    while bio not in frontend.poll():
        pass
    world.eventually(lambda: 8 in kept, "pages that the backend keeps")
    world.eventually(lambda: kept[-1] == 0, "none that it does not")
