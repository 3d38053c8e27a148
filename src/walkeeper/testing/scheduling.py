"""Runs that can be had again: Trio's scheduler and the module ``random`` from one seed.

Trio decides by lot in which order tasks go that could go at the same time; a test that a seed should reproduce must
make that lot depend on the seed.  Does not make threads or real clocks reproducible.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from trio._core import _run


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """A block in which Trio's scheduler and the module ``random`` depend on ``seed`` alone.

    Trio has no public way to say this; pytest-trio does the same for Hypothesis.
    """
    was_deterministic, before = _run._ALLOW_DETERMINISTIC_SCHEDULING, random.getstate()  # noqa: SLF001
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    _run._r.seed(seed)  # noqa: SLF001
    random.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic  # noqa: SLF001
        random.setstate(before)
