"""What is looked at while nobody asks."""

from typing import cast

import trio
import trio.testing

from shown_metrics import ShownTimelines, an_open_timeline
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.pulse import QUEUES_SECONDS, keeping_pulse
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timelines import Timelines


async def test_the_queues_are_looked_at_for_as_long_as_the_block_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    timelines, metrics = ShownTimelines(an_open_timeline()), Metrics("0")
    metrics.watch(cast("Timelines", timelines))
    with timelines.shown[0].registry.receiving(Client(1), print):
        async with keeping_pulse(metrics):
            await trio.sleep(3.5 * QUEUES_SECONDS)
        await trio.sleep(10 * QUEUES_SECONDS)
    assert metrics.registry.get_sample_value("safekeeper_wal_receiver_queue_depth_count") == 3
