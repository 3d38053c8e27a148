"""What is looked at while nobody asks."""

from typing import cast

import pytest
import structlog
import trio
import trio.testing
from trio._core import _run

from shown_metrics import ShownTimelines, an_open_timeline
from walkeeper.control.metrics import Metrics
from walkeeper.daemon.pulse import BEAT_SECONDS, PEAK_SECONDS, QUEUES_SECONDS, WATCHED_SECONDS, keeping_pulse
from walkeeper.daemon.steps import SlowSteps
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timelines import Timelines


async def test_the_queues_are_looked_at_for_as_long_as_the_block_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    timelines, metrics = ShownTimelines(an_open_timeline()), Metrics("0")
    metrics.watch(cast("Timelines", timelines))
    with timelines.shown[0].registry.receiving(Client(1), print):
        async with keeping_pulse(metrics, lambda: None):
            await trio.sleep(3.5 * QUEUES_SECONDS)
        await trio.sleep(10 * QUEUES_SECONDS)
    assert metrics.registry.get_sample_value("safekeeper_wal_receiver_queue_depth_count") == 3


async def test_how_late_the_loop_is_can_be_seen_until_some_minutes_later(
    mock_clock: trio.testing.MockClock,
) -> None:
    metrics = Metrics("0")
    peak = "walkeeper_loop_lag_peak_seconds"
    async with keeping_pulse(metrics, lambda: None):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(BEAT_SECONDS + 3)
        await trio.testing.wait_all_tasks_blocked()
        assert metrics.registry.get_sample_value(peak) == pytest.approx(3)
        assert metrics.registry.get_sample_value("walkeeper_loop_lag_seconds_count") == 1
        mock_clock.autojump_threshold = 0
        await trio.sleep(2 * PEAK_SECONDS)
        assert metrics.registry.get_sample_value(peak) == 0


async def test_steps_are_watched_for_a_minute_after_the_loop_was_late_and_the_task_is_named_then(
    mock_clock: trio.testing.MockClock,
) -> None:
    metrics = Metrics("0")
    watched = []

    def is_watched() -> bool:
        instruments = _run.GLOBAL_RUN_CONTEXT.runner.instruments.get("before_task_step", {})
        return any(isinstance(each, SlowSteps) for each in instruments)

    with structlog.testing.capture_logs() as logs:
        async with keeping_pulse(metrics, lambda: None):
            await trio.testing.wait_all_tasks_blocked()
            watched.append(is_watched())
            mock_clock.jump(BEAT_SECONDS + 3)
            await trio.testing.wait_all_tasks_blocked()
            watched.append(is_watched())
            mock_clock.autojump_threshold = 0
            await trio.sleep(WATCHED_SECONDS + 1)
            watched.append(is_watched())
    assert watched == [False, True, False]
    assert [line["event"] for line in logs] == ["the event loop was late"]
