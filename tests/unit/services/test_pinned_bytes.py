"""The budget of receive buffers: the reader takes, the acceptor gives back."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from walkeeper.services.receive_wal import PinnedBytes


async def test_a_budget_lets_in_what_fits_and_makes_the_rest_wait(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(60)
    await pinned.take(40)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(40)
    await pinned.take(40)


async def test_a_budget_wakes_who_waits(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(90)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pinned.take, 70)
        await wait_all_tasks_blocked()
        pinned.give_back(30)  # not enough yet
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        pinned.give_back(30)


async def test_a_buffer_larger_than_the_budget_is_let_in_alone(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100)
    await pinned.take(1000)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(1000)
    await pinned.take(1)
