"""What a sidecar sees of its primary beside the stream, and that no look can hold the stream up."""

import pytest
import trio
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, until
from sidecar_world import World
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.sidecar.lookout import ANSWER_SECONDS, LOOK_SECONDS
from walkeeper.testing.wal import WalGenerator

USELESS = "commits do not wait for keepers"
MUCH = "the slot keeps much WAL"
LOST = "the slot has lost its WAL"
UNLIMITED = "the slot may fill the primary's disk"
BLIND = "the primary cannot be looked at"
LOOK = "walkeeper_look"
SLOT = "walkeeper"
MIB = 1 << 20


async def looks(count: float = 1) -> None:
    """Time for so many."""
    await trio.sleep(count * LOOK_SECONDS + 1)


async def keep(world: World, size: int) -> int:
    """Have the primary keep at least so much WAL in the slot, and the sidecar see it; how much it is."""
    while world.primary.wal.lsn - world.primary.slots[SLOT] < size:
        await world.commit(40_000)
    await looks()
    return int(world.primary.wal.lsn - world.primary.slots[SLOT])


# -- settings ------------------------------------------------------------------------------------------------


async def test_settings_that_change_while_it_streams_are_noticed_and_told_once_for_each_change(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        assert world.account.look().commits_wait is True
        world.primary.settings["synchronous_standby_names"] = "other"
        await looks(4)
        assert world.account.look().commits_wait is False
        assert len(world.log.said(USELESS)) == 1
        world.primary.settings["synchronous_commit"] = "local"
        await looks(4)
        assert [("synchronous_commit" in str(line["why"])) for line in world.log.said(USELESS)] == [False, True]
        world.primary.settings |= {"synchronous_standby_names": "walkeeper", "synchronous_commit": "on"}
        await looks(4)
        assert world.account.look().commits_wait is True
        world.primary.settings["synchronous_standby_names"] = "other"
        await looks()
    assert len(world.log.said(USELESS)) == 3
    assert len(world.log.said("commits wait for keepers")) == 1


async def test_what_has_been_told_of_the_settings_is_not_told_again_by_the_next_session(
    autojump_clock: MockClock, world: World
) -> None:
    world.primary.settings["synchronous_standby_names"] = ""
    async with world.sidecar():
        await world.commit()
        world.primary.cut()
        await until(lambda: world.account.look().sessions_ended == 1)
        await world.commit()
        assert world.account.look().commits_wait is False
    assert len(world.log.said(USELESS)) == 1


async def test_whether_commits_wait_is_not_known_before_the_primary_was_asked(
    autojump_clock: MockClock, world: World
) -> None:
    with world.primary.hold():
        async with world.sidecar():
            await trio.sleep(1)
            sight = world.account.look()
    assert (sight.commits_wait, sight.slot_retained_bytes, sight.slot_limit_bytes) == (None, None, None)


# -- the slot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "limit_bytes"), [("10GB", 10 << 30), ("1TB", 1 << 40), ("512MB", 512 * MIB), ("-1", None)]
)
async def test_how_much_the_slot_keeps_and_may_keep_is_seen(
    autojump_clock: MockClock, world: World, setting: str, limit_bytes: int | None
) -> None:
    world.primary.settings["max_slot_wal_keep_size"] = setting
    async with world.sidecar(unsafe_slot=True):
        await world.commit()
        retained_bytes = await keep(world, 50_000)
        sight = world.account.look()
    assert (sight.slot_retained_bytes, sight.slot_limit_bytes) == (retained_bytes, limit_bytes)
    assert not world.log.said(MUCH)
    assert sight.slot_look_failures == 0


async def test_on_postgresql_14_the_slot_is_looked_at_by_sql(autojump_clock: MockClock, world: World) -> None:
    start = world.primary.wal.lsn
    world.primary.wal = WalGenerator(start, pg_major=14, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    world.primary.settings["server_version_num"] = "140010"
    world.primary.odd_answers["SELECT max(slot_type)"] = ("physical", format_lsn(start))
    world.primary.refusals["READ_REPLICATION_SLOT"] = ("42601", "syntax error")
    async with world.sidecar():
        await world.commit()
        await looks()
        sight = world.account.look()
    assert (sight.slot_retained_bytes, sight.slot_look_failures) == (world.primary.wal.lsn - start, 0)


async def test_a_slot_that_is_made_is_seen_at_once(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        began = trio.current_time()
        await world.commit()
        await until(lambda: world.account.look().slot_retained_bytes is not None)
        assert trio.current_time() - began < LOOK_SECONDS / 2


async def test_of_a_slot_that_is_gone_it_is_not_told_how_much_it_keeps(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        await looks()
        assert world.account.look().slot_retained_bytes is not None
        world.primary.odd_answers["READ_REPLICATION_SLOT"] = (None, None, None)
        await looks()
        assert world.account.look().slot_retained_bytes is None
        world.primary.odd_answers["READ_REPLICATION_SLOT"] = ("physical", None, None)
        await looks()
        assert world.account.look().slot_retained_bytes is None
    assert not world.log.said(LOST)


async def test_a_slot_that_has_lost_its_wal_is_told_of_once_and_what_it_would_have_to_keep_is_counted_on(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        await looks()
        kept_from = world.primary.slots[SLOT]
        world.primary.odd_answers["READ_REPLICATION_SLOT"] = ("physical", None, None)
        await looks(3)
        await world.commit(40_000)
        await looks()
        assert world.account.look().slot_retained_bytes == world.primary.wal.lsn - kept_from
        (told,) = world.log.said(LOST)
        assert told["slot"] == SLOT
        assert "--timeline" in str(told["remedy"])
        world.primary.odd_answers.clear()
        await looks()
        world.primary.odd_answers["READ_REPLICATION_SLOT"] = ("physical", None, None)
        await looks()
    assert len(world.log.said(LOST)) == 2


async def test_a_slot_that_nears_its_limit_is_told_of_once_each_time(
    autojump_clock: MockClock, world: World
) -> None:
    world.primary.settings["max_slot_wal_keep_size"] = "1MB"
    async with world.sidecar():
        await world.commit()
        await keep(world, int(0.75 * MIB))
        assert not world.log.said(MUCH)
        retained_bytes = await keep(world, int(0.85 * MIB))
        await looks(5)
        (told,) = world.log.said(MUCH)
        assert (told["slot"], told["retained_bytes"], told["limit_bytes"]) == (SLOT, retained_bytes, MIB)
        world.primary.slots[SLOT] = Lsn(world.primary.wal.lsn - int(0.75 * MIB))  # hardly less: not over yet
        await looks()
        await keep(world, int(0.85 * MIB))
        assert len(world.log.said(MUCH)) == 1
        world.primary.slots[SLOT] = world.primary.wal.lsn
        await looks()
        await keep(world, int(0.85 * MIB))
    assert len(world.log.said(MUCH)) == 2


async def test_a_slot_that_was_there_and_has_no_limit_is_told_of_once_for_each_change(
    autojump_clock: MockClock, world: World
) -> None:
    world.primary.slots[SLOT] = world.primary.wal.lsn
    world.primary.settings["max_slot_wal_keep_size"] = "-1"
    async with world.sidecar():
        await world.commit()
        await looks(3)
        (told,) = world.log.said(UNLIMITED)
        assert told["slot"] == SLOT
        assert "max_slot_wal_keep_size" in str(told["remedy"])
        world.primary.settings["max_slot_wal_keep_size"] = "10GB"
        await looks(2)
        assert len(world.log.said(UNLIMITED)) == 1
        world.primary.settings["max_slot_wal_keep_size"] = "-1"
        await looks(3)
    assert len(world.log.said(UNLIMITED)) == 2


async def test_without_a_limit_nothing_is_told_where_that_was_accepted_or_no_slot_is_there(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        world.primary.odd_answers["READ_REPLICATION_SLOT"] = (None, None, None)
        world.primary.settings["max_slot_wal_keep_size"] = "-1"
        await looks(2)
    world.primary.odd_answers.clear()
    async with world.sidecar(unsafe_slot=True):
        await world.commit()
        await looks(2)
    assert not world.log.said(UNLIMITED)


async def test_the_slot_is_looked_at_while_no_majority_elects_anybody(
    autojump_clock: MockClock, world: World
) -> None:
    """That is when it fills up."""
    async with world.sidecar():
        await world.commit()
    with world.keepers[0].hold(), world.keepers[1].hold():
        async with world.sidecar():
            await trio.sleep(5)
            start = world.account.look().slot_retained_bytes
            assert start is not None
            world.primary.wal.logical_message("test", bytes(50_000))
            await looks()
            assert (world.account.look().slot_retained_bytes or 0) > start + 50_000
            assert not world.account.look().is_leading


# -- looks that fail -----------------------------------------------------------------------------------------


async def test_a_look_that_fails_is_counted_and_told_once_and_changes_nothing(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        await looks()
        before = world.account.look()
        world.primary.refused_names.add(LOOK)
        await looks(3)
        await world.commit()
        sight = world.account.look()
        assert sight.slot_look_failures == 3
        assert (sight.slot_limit_bytes, sight.commits_wait) == (before.slot_limit_bytes, True)
        (told,) = world.log.said(BLIND)
        assert "no room" in str(told["why"])
        world.primary.refused_names.clear()
        await looks(2)
        assert len(world.log.said("the primary can be looked at again")) == 1
        world.primary.refused_names.add(LOOK)
        await looks()
    assert len(world.log.said(BLIND)) == 2
    assert world.account.look().sessions_ended == 0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("SHOW max_slot_wal_keep_size", ("much",)),
        ("READ_REPLICATION_SLOT", ("physical", "near", None)),
        ("READ_REPLICATION_SLOT", ("logical", "0/1000000", None)),
    ],
)
async def test_an_answer_that_means_nothing_is_a_look_that_failed(
    autojump_clock: MockClock, world: World, question: str, answer: tuple[str | None, ...]
) -> None:
    async with world.sidecar():
        await world.commit()
        await looks()
        world.primary.odd_answers[question] = answer
        await looks()
        await world.commit()
        assert world.account.look().slot_look_failures == 1
    assert not world.log.said("session ended")


async def test_a_look_that_has_no_answer_is_given_up_and_delays_no_commit(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        world.primary.deaf_to.add(LOOK)
        began = trio.current_time()
        while trio.current_time() - began < 3 * LOOK_SECONDS:
            before = trio.current_time()
            await world.commit()
            assert trio.current_time() - before < ANSWER_SECONDS / 2
            await trio.sleep(0.5)
        assert world.account.look().slot_look_failures >= 2
        assert max(world.acks) < ANSWER_SECONDS / 2
    (told,) = world.log.said(BLIND)
    assert f"no answer within {ANSWER_SECONDS:g} s" in str(told["why"])
    assert not world.log.said("session ended")


async def test_a_sidecar_that_ends_in_the_middle_of_a_look_does_not_wait_for_it(
    autojump_clock: MockClock, world: World
) -> None:
    world.primary.deaf_to.add(LOOK)
    async with world.sidecar():
        await world.commit()
        ended_at = trio.current_time()
    assert trio.current_time() - ended_at < 1
