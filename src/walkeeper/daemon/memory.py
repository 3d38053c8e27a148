"""Python's garbage collector, told how a long-lived process of ours uses memory.

What start-up made lives for ever and need not be looked at again.  After that, nearly everything dies with its
message and by reference counting; the collector is for the few cycles of tasks that ended, so it may come rarely.

Does not limit memory: every queue and buffer has its own limit.
"""

import gc
from typing import Final

ALLOCATIONS_BETWEEN_LOOKS: Final = 50_000
"""Containers made and not yet freed before the youngest are looked at.  Python's 700 are reached on every commit of
a large batch, for nothing."""


def settle() -> None:
    """Call once, after start-up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_BETWEEN_LOOKS, 20, 50)
