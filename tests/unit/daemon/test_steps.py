"""Steps of the event loop that are slow."""

import structlog
import trio

from walkeeper.daemon.steps import STEP_SECONDS_MAX, watching_steps


class Clock:
    """Moves when it is told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def take(clock: Clock, seconds: float) -> None:
    await trio.lowlevel.checkpoint()
    clock.seconds += seconds
    await trio.lowlevel.checkpoint()


async def test_a_step_above_the_limit_is_counted_and_logged_with_the_tasks_name() -> None:
    clock, slow = Clock(), list[int]()
    with structlog.testing.capture_logs() as logs, watching_steps(lambda: slow.append(1), now=clock):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, clock, STEP_SECONDS_MAX, name="just in time")
            nursery.start_soon(take, clock, STEP_SECONDS_MAX + 0.25, name="too long")
    assert len(slow) == 1
    (line,) = logs
    assert (line["task"], line["seconds"], line["log_level"]) == ("too long", STEP_SECONDS_MAX + 0.25, "warning")


async def test_the_step_that_begins_to_watch_and_those_after_the_block_are_nobodys_business() -> None:
    clock, slow = Clock(), list[int]()
    with watching_steps(lambda: slow.append(1), now=clock):
        clock.seconds += 10
        await trio.lowlevel.checkpoint()
    await take(clock, 10)
    assert slow == []
