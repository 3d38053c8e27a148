"""What has to be looked at while nobody asks: how many messages wait for the disk.

Does not decide anything.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from walkeeper.control.metrics import Metrics

QUEUES_SECONDS: Final = 5.0
"""Between two looks at the queues of writers, as in Neon."""


@asynccontextmanager
async def keeping_pulse(metrics: Metrics) -> AsyncIterator[None]:
    """Look for as long as the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_look_at_queues, metrics)
        yield
        nursery.cancel_scope.cancel(reason="shutdown")


async def _look_at_queues(metrics: Metrics) -> None:
    while True:
        await trio.sleep(QUEUES_SECONDS)
        metrics.look_at_queues()
