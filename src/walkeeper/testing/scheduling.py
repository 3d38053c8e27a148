"""Runs that can be had again: Trio's scheduler and the module ``random`` from one seed, on a clock that leaps.

Trio decides by lot in which order tasks go that could go at the same time; a test that a seed should reproduce must
make that lot depend on the seed.  Does not make threads or real clocks reproducible.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio
import trio.testing

_RUN: Final[Any] = trio._core._run


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """A block in which Trio's scheduler and the module ``random`` depend on ``seed`` alone."""
    was_deterministic, before = _RUN._ALLOW_DETERMINISTIC_SCHEDULING, random.getstate()
    _RUN._ALLOW_DETERMINISTIC_SCHEDULING = True
    _RUN._r.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        _RUN._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
        random.setstate(before)


def run_deterministically(
    main: Callable[[], Awaitable[None]], *, seed: int, instruments: Sequence[trio.abc.Instrument] = ()
) -> None:
    """Run ``main`` in a Trio of its own, whose time leaps as soon as every task waits for it."""
    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(main, clock=clock, instruments=instruments)
