"""What has to be looked at while nobody asks: whether the event loop keeps up, which of its steps are slow, and how many messages wait for the disk.

Does not decide anything.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from walkeeper.control.metrics import Metrics
from walkeeper.daemon.steps import watching_steps

BEAT_SECONDS: Final = 0.1
"""A loop that stands still longer is always noticed; so few turns cost nothing."""

QUEUES_SECONDS: Final = 5.0
"""Between two looks at the queues of writers, as in Neon."""

DISK_SECONDS: Final = 1.0
"""Between two looks at whether the disk answers."""

PEAK_SECONDS: Final = 60.0
"""Half of how long a peak is remembered: longer than the usual interval between scrapes."""


@asynccontextmanager
async def keeping_pulse(metrics: Metrics, look_at_disk: Callable[[], None]) -> AsyncIterator[None]:
    """Look for as long as the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, QUEUES_SECONDS, metrics.look_at_queues, name="look at queues")
        nursery.start_soon(_repeat, DISK_SECONDS, look_at_disk, name="look at disk")
        nursery.start_soon(_repeat, PEAK_SECONDS, metrics.turn_peaks, name="turn peaks")
        nursery.start_soon(_beat, metrics.loop_lagged)
        with watching_steps(metrics.step_was_slow):
            yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _beat(lagged: Callable[[float], None]) -> None:
    while True:
        due = trio.current_time() + BEAT_SECONDS
        await trio.sleep_until(due)
        lagged(max(0.0, trio.current_time() - due))


async def _repeat(seconds: float, act: Callable[[], None]) -> None:
    while True:
        await trio.sleep(seconds)
        act()
