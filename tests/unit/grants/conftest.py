"""Granting domains and mappers on plain memory files."""

from collections.abc import Callable, Iterator

import pytest
from engines.world import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds, for tests that need one per example."""
    worlds: list[World] = []

    def make(**sizes: int) -> World:
        worlds.append(World(**sizes))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One granting domain."""
    return make_world()


@pytest.fixture(scope="session")
def world_class() -> type[World]:
    """For state machines, which make their own."""
    return World
