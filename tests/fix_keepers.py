"""Fixtures: keepers as processes, in a throw-away directory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres
import programs

NewKeeper = Callable[..., programs.Keeper]


@pytest.fixture
def new_keeper(work_directory: Path) -> Iterator[NewKeeper]:
    """Make keepers with ports of their own: `new_keeper(number, *flags)`.  None runs yet; all are killed in the end."""
    with ExitStack() as stack:

        def make(number: int = 1, *flags: str, directory: Path = work_directory) -> programs.Keeper:
            pg_port, http_port = postgres.free_ports(2)
            return stack.enter_context(programs.Keeper.prepare(directory, number, pg_port, http_port, *flags))

        yield make


@pytest.fixture
def keeper(new_keeper: NewKeeper) -> programs.Keeper:
    """A keeper that serves."""
    made = new_keeper()
    made.start()
    made.wait_ready()
    return made


@pytest.fixture
def keepers(new_keeper: NewKeeper) -> list[programs.Keeper]:
    """Three keepers that serve, with the numbers 1 to 3."""
    made = [new_keeper(number) for number in (1, 2, 3)]
    for one in made:
        one.start()
    for one in made:
        one.wait_ready()
    return made
