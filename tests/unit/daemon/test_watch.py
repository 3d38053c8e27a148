"""A disk that does not answer is noticed."""

import trio
import trio.testing

from walkeeper.control.collectors import DiskJobs
from walkeeper.daemon.watch import DISK_SECONDS_MAX, WatchedOffload
from walkeeper.testing.offload import InlineOffload


def problem(offload: WatchedOffload) -> str:
    [check] = offload.checks()
    return check.problem


async def test_a_call_that_runs_too_long_is_a_problem_until_it_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    offload = WatchedOffload(InlineOffload(lambda: DISK_SECONDS_MAX))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(offload, int, "7")
        await trio.sleep(DISK_SECONDS_MAX - 1)
        assert problem(offload) == ""
        await trio.sleep(2)
        assert offload.jobs() == DiskJobs(1, DISK_SECONDS_MAX + 1)
        assert problem(offload) == f"no answer for {DISK_SECONDS_MAX + 1:.0f} s"
    assert problem(offload) == ""
    assert offload.jobs() == DiskJobs(0, 0)


async def test_many_calls_that_each_end_in_time_are_no_problem(autojump_clock: trio.testing.MockClock) -> None:
    offload = WatchedOffload(InlineOffload(lambda: DISK_SECONDS_MAX / 4))
    for _ in range(4):
        assert await offload(int, "7") == 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offload, int, "7")
            await trio.sleep(1)
            assert problem(offload) == ""


async def test_what_the_call_raises_comes_out_and_ends_the_watch(autojump_clock: trio.testing.MockClock) -> None:
    offload = WatchedOffload(InlineOffload())
    try:
        await offload(int, "seven")
    except ValueError:
        await trio.sleep(2 * DISK_SECONDS_MAX)
    assert trio.current_time() >= 2 * DISK_SECONDS_MAX
    assert problem(offload) == ""
