"""Runs that can be had again: Trio's scheduler and the module ``random`` from one seed.

Trio decides by lot in which order tasks go that could go at the same time; a test that a seed should reproduce must
make that lot depend on the seed.  Does not make threads or real clocks reproducible.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

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
