"""What is counted and measured of a proposer's connection."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proposing import Keeper, open_keeper
from walkeeper.timeline.registry import Waiting


@pytest.fixture
async def keeper(autojump_clock: MockClock) -> AsyncIterator[Keeper]:
    async with open_keeper() as keeper:
        yield keeper


async def test_messages_are_counted_by_how_they_end(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    await proposer.say(proposer.next_append())
    await proposer.hear_append()
    proposer.wal.record(b"lost")
    await proposer.say(proposer.next_append())
    await proposer.has_ended.wait()
    counted = keeper.instruments.registry.get_sample_value
    name = "safekeeper_proposer_acceptor_messages_total"
    assert counted(name, {"outcome": "success"}) == 4  # a greeting, a vote, an election, an append
    assert counted(name, {"outcome": "error"}) == 1


async def test_how_long_it_took_to_follow_a_leader_is_measured(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    keeper.disk.seconds = 2.0
    await proposer.be_elected()
    await proposer.say(proposer.heartbeat())
    await proposer.hear_append()
    labels = {"operation": "handle_elected"}
    measured = keeper.instruments.registry.get_sample_value
    assert measured("safekeeper_misc_operation_seconds_sum", labels) == pytest.approx(2.0)


async def test_what_waits_for_the_disk_can_be_seen(keeper: Keeper, autojump_clock: MockClock) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    (receiver,) = keeper.timeline.registry.receivers()
    assert receiver.waiting() == Waiting()
    keeper.disk.seconds = 2.0
    for _ in range(3):
        await proposer.say(proposer.next_append())
        await wait_all_tasks_blocked()
    waiting = receiver.waiting()
    assert waiting.replies == 0
    assert waiting.messages == 2  # and one is being written
    assert waiting.pinned_bytes > 3 * 500
    await proposer.hear_flushed(proposer.wal.lsn)


async def test_an_answer_is_measured_from_the_arrival_of_the_oldest_append(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    await proposer.be_elected()
    keeper.disk.seconds = 2.0
    for _ in range(3):
        await proposer.say(proposer.next_append())
        await trio.sleep(0.5)
    await proposer.hear_flushed(proposer.wal.lsn)
    await proposer.say(proposer.heartbeat())
    await proposer.hear_append()
    measured = keeper.instruments.registry.get_sample_value
    assert measured("walkeeper_ack_seconds_sum") == pytest.approx(
        2.0 + 3.5
    )  # the second batch waited for the first
    assert measured("walkeeper_ack_seconds_count") == 2
    assert measured("walkeeper_batch_appends_sum") == 3
    assert measured("walkeeper_batch_appends_count") == 2


async def test_wal_is_received_flushed_and_committed_in_this_order(
    keeper: Keeper, autojump_clock: MockClock
) -> None:
    proposer = keeper.connect()
    account = keeper.timeline.account
    await proposer.be_elected()
    keeper.disk.seconds = 2.0
    append = proposer.next_append()
    size = append.end_lsn - append.begin_lsn
    await proposer.say(append)
    await wait_all_tasks_blocked()
    assert (account.received_bytes, account.flushed_bytes, account.committed_bytes) == (size, 0, 0)
    await proposer.hear_append()
    assert (account.received_bytes, account.flushed_bytes, account.committed_bytes) == (size, size, 0)
    await proposer.say(replace(proposer.heartbeat(), commit_lsn=append.end_lsn))
    await proposer.hear_append()
    assert (account.received_bytes, account.flushed_bytes, account.committed_bytes) == (size, size, size)
