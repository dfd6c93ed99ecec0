"""Benches with either engine, for either layout."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.bench import ENGINES, Bench

from xenblk.blkif import X86_32, X86_64, Abi


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches with one of the engines."""
    benches: list[Bench] = []

    def make_one(abi: Abi, **setup: Any) -> Bench:
        benches.append(Bench(abi, request.param, tmp_path, **setup))
        return benches[-1]

    yield make_one
    for bench in benches:
        bench.close()


@pytest.fixture(params=[X86_64, X86_32], ids=["x86_64", "x86_32"])
def abi(request: pytest.FixtureRequest) -> Abi:
    """Either layout."""
    return request.param  # type: ignore[no-any-return]
