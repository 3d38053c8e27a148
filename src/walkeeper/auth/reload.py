"""What can be read again without a restart, when somebody asks for it instead of waiting for the next regular look.

Whoever keeps something up registers how, for as long as it does; the list is that of one run of Trio.

Does not know what there is, nor who asks.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from walkeeper.errors import ConfigError

Look = Callable[[], Awaitable[None]]
"""Reads it again.  Raises ConfigError if that cannot be; what was there before stays."""


@dataclass(frozen=True, slots=True, eq=False)
class Reloadable:
    what: str
    failure: str
    look: Look


@dataclass(frozen=True, slots=True)
class Reloaded:
    """``problem``: empty if it was read; else ``failure`` is what the log is told, as after a regular look."""

    what: str
    failure: str
    problem: str


_reloadables: trio.lowlevel.RunVar[tuple[Reloadable, ...]] = trio.lowlevel.RunVar("reloadables", ())


@contextmanager
def reloadable(what: str, failure: str, look: Look) -> Iterator[None]:
    """While the block runs, ``look`` is what reads ``what`` again; ``failure`` is the log's line when it cannot."""
    mine = Reloadable(what, failure, look)
    _reloadables.set((*_reloadables.get(), mine))
    try:
        yield
    finally:
        _reloadables.set(tuple(each for each in _reloadables.get() if each is not mine))


async def reload_all() -> Sequence[Reloaded]:
    """Read everything again, one after the other.

    Cancellation: between two of them, or as each says.
    """
    results: list[Reloaded] = []
    for each in _reloadables.get():
        try:
            await each.look()
            results.append(Reloaded(each.what, each.failure, ""))
        except ConfigError as error:
            results.append(Reloaded(each.what, each.failure, str(error)))
    return results
