"""Fixture: a primary and three keepers in memory, all serving."""

import pytest
import trio

from sidecar_world import World


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    world = World()
    for server in (world.primary, *world.keepers):
        await nursery.start(server.serve)
    return world
