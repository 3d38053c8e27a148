"""``walkeeper sync`` over keepers in memory; the clock is Trio's fake one."""

from dataclasses import replace
from socket import socket
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, Client, FakeKeeper, RecordingLog, until
from walkeeper.errors import ConfigError, Fenced, Unreachable
from walkeeper.formats.backend import ErrorResponse
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import ServerInfo
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.sync import SyncConfig, sync_keepers

START = Lsn(0x1000000)
SERVER = ServerInfo(150005, SYSTEM_ID, SEGMENT_BYTES)
TTID = TenantTimelineId.of_system(SYSTEM_ID)


def wal_of(records: int) -> WalGenerator:
    wal = WalGenerator(START, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    for _ in range(records):
        wal.logical_message("test", bytes(20_000))
    return wal


def fill(keeper: FakeKeeper, records: int, *history: tuple[int, int]) -> None:
    """As if the leaders of ``history`` had written these records."""
    keeper.adopt(wal_of(records), *history)


class Quorum:
    def __init__(self) -> None:
        self.keepers = [FakeKeeper(node_id=NodeId(number)) for number in (1, 2, 3)]
        self.log = RecordingLog()

    async def sync(self, **changes: Any) -> Lsn:
        config = SyncConfig(tuple(keeper.address for keeper in self.keepers), TTID, timeout_seconds=60.0)
        return await sync_keepers(replace(config, **changes), log=self.log)


@pytest.fixture
async def quorum(nursery: trio.Nursery) -> Quorum:
    quorum = Quorum()
    for keeper in quorum.keepers:
        await nursery.start(keeper.serve)
    return quorum


async def test_a_keeper_that_lags_is_brought_to_the_end_of_those_that_have_most(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    """Of those that voted first: what a majority has is then surely among it."""
    for keeper, records in zip(quorum.keepers, (3, 40, 40), strict=True):
        fill(keeper, records)
    end = await quorum.sync()
    assert end in (wal_of(7).lsn, wal_of(40).lsn)
    wal = wal_of(40).wal[: end - START]
    assert [bytes(keeper.wal) for keeper in quorum.keepers] == [wal] * 3
    assert [keeper.commit_lsn for keeper in quorum.keepers] == [end] * 3


async def test_the_newest_term_wins_over_the_most_wal(autojump_clock: MockClock, quorum: Quorum) -> None:
    short = wal_of(2).lsn
    fill(quorum.keepers[0], 9)
    fill(quorum.keepers[1], 2, (1, START), (2, short))
    fill(quorum.keepers[2], 2, (1, START), (2, short))
    assert await quorum.sync() == short
    assert bytes(quorum.keepers[0].wal) == wal_of(2).wal


async def test_a_majority_is_enough(autojump_clock: MockClock, quorum: Quorum) -> None:
    fill(quorum.keepers[0], 3)
    fill(quorum.keepers[1], 5)
    with quorum.keepers[2].hold():
        assert await quorum.sync() == wal_of(5).lsn
    assert quorum.keepers[0].commit_lsn == wal_of(5).lsn


async def test_a_keeper_that_lost_its_disk_is_filled(autojump_clock: MockClock, quorum: Quorum) -> None:
    fill(quorum.keepers[0], 5)
    fill(quorum.keepers[2], 3)
    assert await quorum.sync() == wal_of(5).lsn
    assert bytes(quorum.keepers[1].wal) == wal_of(5).wal


async def test_a_keeper_that_lost_its_disk_and_one_that_lags_are_no_majority(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    """Whatever was acknowledged last may be on the third alone."""
    fill(quorum.keepers[0], 5)
    with quorum.keepers[2].hold(), pytest.raises(Unreachable):
        await quorum.sync()
    assert bytes(quorum.keepers[1].wal) == b""


async def test_a_wiped_keeper_and_the_one_that_must_come_back_are_named(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    well, wiped, down = quorum.keepers
    fill(well, 5)
    with down.hold(), pytest.raises(Unreachable) as caught:
        await quorum.sync()
    assert_named(caught.value, wiped, down)
    assert str(well.address) not in str(caught.value)


async def test_a_wiped_keeper_that_was_never_said_to_be_whole_again_does_not_vouch_however_much_it_has(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    well, refilled, down = quorum.keepers
    fill(well, 5)
    fill(refilled, 5)
    refilled.is_whole = False
    with down.hold(), pytest.raises(Unreachable) as caught:
        await quorum.sync()
    assert_named(caught.value, refilled, down)
    fill(down, 7)
    assert await quorum.sync() == wal_of(7).lsn
    assert bytes(refilled.wal) == wal_of(7).wal


async def test_keepers_of_which_none_vouches_for_the_end_are_synced_with_a_warning(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
        keeper.is_whole = False
    assert await quorum.sync() == wal_of(3).lsn
    (told,) = quorum.log.said("acknowledged commits may be lost")
    assert str(told["keepers"]).count(format_lsn(wal_of(3).lsn)) == 3


async def test_a_timeline_that_an_operator_has_made_and_nobody_written_is_synced_without_a_warning(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 0, (0, START))
        keeper.is_whole = False
    assert await quorum.sync() == START
    assert not quorum.log.said("acknowledged commits may be lost")


async def test_a_wiped_keeper_is_whole_after_a_sync_with_the_others(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    """Although a sync writes no WAL that could show who still follows."""
    for keeper in quorum.keepers:
        fill(keeper, 5)
    wiped = quorum.keepers[1]
    wiped.wipe()
    with quorum.keepers[2].hold(), pytest.raises(Unreachable):
        await quorum.sync()
    assert [keeper.is_whole for keeper in quorum.keepers] == [True, False, True]
    assert await quorum.sync() == wal_of(5).lsn
    assert [keeper.is_whole for keeper in quorum.keepers] == [True] * 3
    assert bytes(wiped.wal) == wal_of(5).wal


async def test_a_wiped_keeper_that_comes_after_the_election_is_named_too(
    autojump_clock: MockClock, quorum: Quorum, nursery: trio.Nursery
) -> None:
    well, wiped, down = quorum.keepers
    fill(well, 5)
    fill(down, 5)
    well.is_forgetful = True

    async def change_places() -> None:
        with wiped.hold():
            await until(lambda: bool(quorum.log.said("elected")))
            down.held = True

    nursery.start_soon(change_places)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(Unreachable) as caught:
        await quorum.sync()
    assert_named(caught.value, wiped, down)


def assert_named(error: Unreachable, doubted: FakeKeeper, missing: FakeKeeper) -> None:
    first, _, last = str(error).partition("Bring back")
    assert f"keeper {doubted.address} cannot vouch" in first
    assert f"keeper {missing.address}: " in last


async def test_among_whole_keepers_nobody_is_said_to_be_new(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
        keeper.is_forgetful = True
    with pytest.raises(Unreachable) as caught:
        await quorum.sync()
    assert "vouch" not in str(caught.value)
    assert all(f"keeper {keeper.address}: not done yet" in str(caught.value) for keeper in quorum.keepers)


async def test_whoever_wrote_before_is_fenced(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
        keeper.term = Term(7)
    await quorum.sync()
    assert [keeper.term for keeper in quorum.keepers] == [8, 8, 8]


async def test_a_second_sync_gives_the_same_answer(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
    assert await quorum.sync() == await quorum.sync() == wal_of(3).lsn


async def test_keepers_that_know_nothing_are_left_alone(autojump_clock: MockClock, quorum: Quorum) -> None:
    assert await quorum.sync() == 0
    assert not any(keeper.exists for keeper in quorum.keepers)


async def test_keepers_that_never_got_wal_have_nothing(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        keeper.exists, keeper.server = True, SERVER
    assert await quorum.sync() == 0
    assert not any(keeper.history.entries for keeper in quorum.keepers)


async def test_a_minority_is_a_clear_failure(autojump_clock: MockClock, quorum: Quorum) -> None:
    fill(quorum.keepers[0], 3)
    with quorum.keepers[1].hold(), quorum.keepers[2].hold(), pytest.raises(Unreachable):
        await quorum.sync(timeout_seconds=30.0)
    assert quorum.keepers[0].term == 1


async def test_one_misplaced_keeper_is_warned_of_and_left_alone_and_the_others_are_enough(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    misplaced, *well = quorum.keepers
    fill(misplaced, 9)
    misplace(misplaced)
    for keeper in well:
        fill(keeper, 3)
    assert await quorum.sync() == wal_of(3).lsn
    assert [keeper.commit_lsn for keeper in well] == [wal_of(3).lsn] * 2
    assert (misplaced.term, bytes(misplaced.wal)) == (1, wal_of(9).wal)
    (told,) = quorum.log.said("keeper misplaced")
    assert str(misplaced.address) in str(told["keeper"])


async def test_keepers_of_other_clusters_are_refused_when_they_leave_no_majority(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    for keeper, system_id in zip(quorum.keepers, (SYSTEM_ID, 77, 78), strict=True):
        fill(keeper, 3)
        keeper.server = replace(SERVER, system_id=system_id)
    with pytest.raises(ConfigError):
        await quorum.sync()
    assert [keeper.term for keeper in quorum.keepers] == [1, 1, 1]


async def test_of_two_clusters_neither_is_chosen_before_a_majority_is_of_one(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    one, other, late = quorum.keepers
    for keeper in quorum.keepers:
        fill(keeper, 3)
    misplace(one)
    with late.hold(), pytest.raises(Unreachable) as caught:
        await quorum.sync()
    assert all(str(keeper.address) in str(caught.value) for keeper in quorum.keepers)
    assert [keeper.term for keeper in quorum.keepers] == [1, 1, 1]
    assert await quorum.sync() == wal_of(3).lsn
    assert (one.term, other.term, late.term) == (1, 2, 2)


async def test_an_address_that_is_no_keepers_is_warned_of_and_the_others_are_enough(
    autojump_clock: MockClock, quorum: Quorum, nursery: trio.Nursery
) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
    database = NoKeeper()
    await nursery.start(database.serve)
    addresses = (database.address, *(keeper.address for keeper in quorum.keepers[1:]))
    assert await quorum.sync(keepers=addresses) == wal_of(3).lsn
    (told,) = quorum.log.said("keeper misplaced")
    assert str(database.address) in str(told["keeper"])


async def test_addresses_that_are_no_keepers_are_refused_when_they_leave_no_majority(
    autojump_clock: MockClock, quorum: Quorum, nursery: trio.Nursery
) -> None:
    fill(quorum.keepers[0], 3)
    databases = [NoKeeper(), NoKeeper()]
    for database in databases:
        await nursery.start(database.serve)
    before = trio.current_time()
    with pytest.raises(ConfigError):
        await quorum.sync(keepers=(quorum.keepers[0].address, *(each.address for each in databases)))
    assert trio.current_time() - before < 10
    assert quorum.keepers[0].term == 1


class NoKeeper(FakeKeeper):
    """Refuses everybody for good, as a PostgreSQL does that has no database of this name."""

    async def welcome(self, client: Client) -> None:
        await client.send(ErrorResponse('database "replication" does not exist', "3D000"))


def misplace(keeper: FakeKeeper) -> None:
    keeper.server = replace(SERVER, system_id=77)


async def test_one_keeper_that_does_not_say_whose_wal_it_has_hears_it_from_the_others(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
    quorum.keepers[0].answers_show = False
    assert await quorum.sync() == wal_of(3).lsn
    assert [keeper.commit_lsn for keeper in quorum.keepers] == [wal_of(3).lsn] * 3


async def test_the_server_can_be_told_where_keepers_do_not_say(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
        keeper.answers_show = False
    with pytest.raises(ConfigError):
        await quorum.sync()
    assert await quorum.sync(server=ServerInfo(150000, 0, SEGMENT_BYTES)) == wal_of(3).lsn


async def test_a_writer_that_takes_over_meanwhile_ends_the_sync(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
    quorum.keepers[2].steals_elections = True
    with pytest.raises(Fenced):
        await quorum.sync()


async def test_an_end_that_nobody_remembers_is_not_reported(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
        keeper.is_forgetful = True
    with pytest.raises(Unreachable):
        await quorum.sync(timeout_seconds=30.0)


async def test_a_connected_keeper_that_does_not_get_there_is_waited_for_a_little(
    autojump_clock: MockClock, quorum: Quorum
) -> None:
    for keeper in quorum.keepers:
        fill(keeper, 3)
    quorum.keepers[1].is_forgetful = True
    before = trio.current_time()
    assert await quorum.sync() == wal_of(3).lsn
    assert 1 < trio.current_time() - before < 10


async def test_a_donor_that_dies_with_what_only_it_has_does_not_block_the_others(
    autojump_clock: MockClock, quorum: Quorum, nursery: trio.Nursery
) -> None:
    donor, second, third = quorum.keepers
    for keeper, records in zip(quorum.keepers, (9, 3, 3), strict=True):
        fill(keeper, records)
    donor.dies_after_voting = True

    async def let_third_in_late() -> None:
        with third.hold():
            await until(lambda: donor.held)

    nursery.start_soon(let_third_in_late)
    await trio.testing.wait_all_tasks_blocked()
    assert await quorum.sync() == wal_of(3).lsn
    assert quorum.log.said("sync starts over")
    assert second.commit_lsn == third.commit_lsn == wal_of(3).lsn


async def test_a_keeper_that_was_never_there_is_not_called_lost(autojump_clock: MockClock, quorum: Quorum) -> None:
    for keeper in quorum.keepers[:2]:
        fill(keeper, 3)
    with socket() as deaf:  # bound, so that nobody else answers
        deaf.bind(("127.0.0.1", 0))
        addresses = (*(keeper.address for keeper in quorum.keepers[:2]), Address(*deaf.getsockname()))
        assert await quorum.sync(keepers=addresses) == wal_of(3).lsn
    assert quorum.log.said("keeper not reached")
    assert not quorum.log.said("keeper lost")
