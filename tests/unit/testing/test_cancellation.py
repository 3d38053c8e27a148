"""What cancels everywhere finds what is careless, and says where."""

import random

import pytest
import trio

from walkeeper.testing.cancellation import Uncancelled, Victim, cancel_everywhere, interrupt_everywhere


class Account:
    """Two balances that belong together, and no lock."""

    def __init__(self) -> None:
        self.balances = [10, 0]

    async def move(self, amount: int) -> None:
        self.balances[0] -= amount
        await trio.sleep(1)
        self.balances[1] += amount


async def move_carelessly(victim: Victim) -> None:
    account = Account()
    with victim.exposed():
        await account.move(3)
    assert sum(account.balances) == 10


async def move_with_care(victim: Victim) -> None:
    account = Account()
    with victim.exposed():
        await trio.sleep(1)
        with trio.CancelScope(shield=True):
            await account.move(3)
        await trio.sleep(1)
    assert sum(account.balances) == 10


def test_what_is_left_half_done_is_found_and_the_moment_is_named() -> None:
    with pytest.raises(AssertionError) as caught:
        cancel_everywhere(move_carelessly)
    (note,) = caught.value.__notes__
    assert note.startswith("moment 1, before ")
    assert "test_cancellation.py" in note


def test_what_is_done_whole_or_not_at_all_passes_at_every_moment() -> None:
    assert cancel_everywhere(move_with_care).moments == 3


def test_ctrl_c_is_survived_by_what_is_protected_from_it() -> None:
    closed = []

    async def close_in_the_end(victim: Victim) -> None:
        try:
            with victim.exposed():
                await trio.sleep(1)
                await trio.sleep(1)
        finally:
            closed.append(True)

    report = interrupt_everywhere(close_in_the_end)
    assert len(closed) == 1 + report.moments == 3


def test_something_else_can_be_struck_while_the_block_runs() -> None:
    struck = []

    async def scenario(victim: Victim) -> None:
        with victim.exposed(lambda: struck.append(True)):
            await trio.sleep(1)

    assert cancel_everywhere(scenario).moments == len(struck) == 1


def test_a_scenario_that_is_different_each_time_is_told_of() -> None:
    lengths = iter([5, 1])

    async def unsteady(victim: Victim) -> None:
        with victim.exposed(lambda: None):
            for _ in range(next(lengths, 1)):
                await trio.sleep(1)

    with pytest.raises(Uncancelled):
        cancel_everywhere(unsteady)


def test_all_runs_throw_the_same_dice() -> None:
    thrown = set()

    async def scenario(victim: Victim) -> None:
        thrown.add(random.random())
        with victim.exposed():
            await trio.sleep(1)

    cancel_everywhere(scenario)
    assert len(thrown) == 1


def test_file_descriptors_that_are_left_over_are_found() -> None:
    opened = []

    async def leak(victim: Victim) -> None:
        with victim.exposed():
            await trio.sleep(1)
        opened.append(open("/dev/null"))  # noqa: SIM115, ASYNC230

    with pytest.raises(AssertionError, match="file descriptors"):
        cancel_everywhere(leak)
    for file in opened:
        file.close()
