"""The budget of receive buffers: the reader takes, the acceptor gives back."""

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from walkeeper.errors import OutOfMemory
from walkeeper.services.budget import Budget
from walkeeper.services.receive_wal import PinnedBytes


async def test_a_budget_lets_in_what_fits_and_makes_the_rest_wait(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100, Budget())
    await pinned.take(60)
    await pinned.take(40)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(40)
    await pinned.take(40)


async def test_a_budget_wakes_who_waits(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100, Budget())
    await pinned.take(90)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pinned.take, 70)
        await wait_all_tasks_blocked()
        pinned.give_back(30)  # not enough yet
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        pinned.give_back(30)


async def test_a_buffer_larger_than_the_budget_is_let_in_alone(autojump_clock: MockClock) -> None:
    pinned = PinnedBytes(100, Budget())
    await pinned.take(1000)
    with trio.move_on_after(1) as waiting:
        await pinned.take(1)
    assert waiting.cancelled_caught
    pinned.give_back(1000)
    await pinned.take(1)


async def test_what_all_have_together_is_bounded_too(autojump_clock: MockClock) -> None:
    budget = Budget(100)
    one, other = PinnedBytes(100, budget), PinnedBytes(100, budget)
    await one.take(70)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.take, 40)
        await wait_all_tasks_blocked()
        assert other.taken_bytes == 0
        with one:  # a connection that ends gives all of it back
            pass
    assert (one.taken_bytes, other.taken_bytes, budget.queued_bytes) == (0, 40, 40)


def test_readers_have_half_and_never_keep_a_writer_from_its_first_buffer() -> None:
    budget = Budget(100)
    with budget.reading(50):
        with pytest.raises(OutOfMemory), budget.reading(1):
            pass
        assert PinnedBytes(1000, budget).try_take(100)
        assert not PinnedBytes(1000, budget).try_take(1)
    assert budget.reading_bytes == 0


async def test_of_those_that_wait_for_memory_each_is_told_once_and_those_that_fit_go_on_in_order(
    autojump_clock: MockClock,
) -> None:
    budget = Budget(100)
    first = PinnedBytes(100, budget)
    await first.take(100)
    waiting = [PinnedBytes(100, budget) for _ in range(4)]
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            for one in waiting:
                nursery.start_soon(one.take, 30)
                await wait_all_tasks_blocked()
            for _ in range(10):
                first.give_back(1)
                await wait_all_tasks_blocked()
            first.give_back(90)
            await wait_all_tasks_blocked()
            assert [one.taken_bytes for one in waiting] == [30, 30, 30, 0]
            waiting[0].give_back(30)
    assert budget.queued_bytes == 90
    assert len(logs) == 4


async def test_whoever_gives_up_waiting_for_memory_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    budget = Budget(100)
    first, impatient, patient = (PinnedBytes(100, budget) for _ in range(3))
    await first.take(100)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(patient.take, 30)
            scope.cancel()
            await impatient.take(30)
        first.give_back(100)
    assert (impatient.taken_bytes, patient.taken_bytes) == (0, 30)
