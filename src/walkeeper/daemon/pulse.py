"""What has to be looked at while nobody asks: whether the event loop keeps up, which of its steps are slow, and how many messages wait for the disk.

Does not decide anything.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import trio

from walkeeper.control.metrics import Metrics
from walkeeper.daemon.steps import STEP_SECONDS_MAX, watching_steps
from walkeeper.links.throttle import throttled_logger

BEAT_SECONDS: Final = 0.1
"""A loop that stands still longer is always noticed; so few turns cost nothing."""

QUEUES_SECONDS: Final = 5.0
"""Between two looks at the queues of writers, as in Neon."""

DISK_SECONDS: Final = 1.0
"""Between two looks at whether the disk answers."""

WATCHED_SECONDS: Final = 60.0
"""For how long after the loop was late its steps are watched, to name the task if it comes again."""

PEAK_SECONDS: Final = 60.0
"""Half of how long a peak is remembered: longer than the usual interval between scrapes."""


log = throttled_logger()


@asynccontextmanager
async def keeping_pulse(metrics: Metrics, look_at_disk: Callable[[], None]) -> AsyncIterator[None]:
    """Look for as long as the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, QUEUES_SECONDS, metrics.look_at_queues, name="look at queues")
        nursery.start_soon(_repeat, DISK_SECONDS, look_at_disk, name="look at disk")
        nursery.start_soon(_repeat, PEAK_SECONDS, metrics.turn_peaks, name="turn peaks")
        nursery.start_soon(_beat, metrics)
        yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _beat(metrics: Metrics) -> None:
    """While steps are watched each costs some microseconds, so they are only when there is something to be found."""
    with ExitStack() as watch:
        is_watching, until = False, 0.0
        while True:
            due = trio.current_time() + BEAT_SECONDS
            await trio.sleep_until(due)
            now = trio.current_time()
            metrics.loop_lagged(max(0.0, now - due))
            if now - due > STEP_SECONDS_MAX:
                log.warning("the event loop was late", seconds=round(now - due, 3))
                until = now + WATCHED_SECONDS
                if not is_watching:
                    is_watching = True
                    watch.enter_context(watching_steps(metrics.step_was_slow))
            elif is_watching and now > until:
                is_watching = False
                watch.close()


async def _repeat(seconds: float, act: Callable[[], None]) -> None:
    while True:
        await trio.sleep(seconds)
        act()
