"""What a sidecar says of itself, in each state that it can be in."""

import pytest
import trio
from trio.testing import MockClock

from fake_servers import until
from sidecar_world import World, kept_before
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.lsn import Lsn
from walkeeper.sidecar.account import LEADING, MAJORITY, NOT_YET, PRIMARY, Account

NOBODY = {"acknowledging": 0, "catching_up": 0, "incomplete": 0, "lost": 0}
DROPPED_SECONDS = 15.0  # a keeper that does not answer is dropped after ten


def awaited(world: World) -> dict[str, str]:
    """What it says that it waits for, and why."""
    return dict(world.account.awaits())


def is_ready(world: World) -> bool:
    return not any(awaited(world).values())


def keepers(world: World) -> dict[str, int]:
    """How many are in which state, without the states that none is in."""
    return {state: count for state, count in world.account.look().keepers.items() if count}


async def test_one_that_leads_three_keepers_is_ready_and_nothing_waits(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        end = await world.commit()
        await until(lambda: keepers(world) == {"acknowledging": 3})
        sight = world.account.look()
        assert is_ready(world)
    assert (sight.is_leading, sight.term, sight.elections, sight.sessions_ended) == (True, 1, 1, 0)
    assert (sight.keepers_needed, sight.received_lsn, sight.commit_lsn) == (2, end, end)
    assert sight.waiting_seconds == 0


async def test_before_the_primary_is_reached_it_says_why_not(autojump_clock: MockClock, world: World) -> None:
    nowhere = ConnectionInfo("127.0.0.1", 1, sslmode=SslMode.DISABLE)
    async with world.sidecar(primary=nowhere):
        assert awaited(world) == {PRIMARY: NOT_YET, LEADING: NOT_YET, MAJORITY: NOT_YET}
        await until(lambda: world.account.look().sessions_ended > 0)
        assert "Connection refused" in awaited(world)[PRIMARY]
        sight = world.account.look()
    assert (sight.is_leading, sight.term, sight.received_lsn) == (False, 0, 0)
    assert sight.keepers == NOBODY | {"lost": 3}
    assert sight.keepers_needed == 2


async def test_before_it_is_elected_it_says_who_is_missing(autojump_clock: MockClock, world: World) -> None:
    there, away, also_away = world.keepers
    async with world.sidecar():
        with away.hold(), also_away.hold():
            await trio.sleep(DROPPED_SECONDS)
            told = awaited(world)
            assert (told[PRIMARY], told[MAJORITY]) == ("", NOT_YET)
            assert [str(keeper.address) in told[LEADING] for keeper in world.keepers] == [True, True, True]
            assert f"keeper {there.address} cannot vouch" in told[LEADING]
            assert keepers(world) == {"incomplete": 1, "lost": 2}
            assert not world.account.look().is_leading
            assert world.account.look().elections == 0
        await world.commit()
        assert world.account.look().elections == 1
        assert awaited(world)[LEADING] == ""


async def test_without_a_majority_it_leads_and_is_not_ready_and_says_whose_acknowledgements_are_missing(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold(), world.keepers[1].hold():
            await trio.sleep(DROPPED_SECONDS)
            told = awaited(world)
            assert (told[PRIMARY], told[LEADING]) == ("", "")
            assert [str(keeper.address) in told[MAJORITY] for keeper in world.keepers] == [True, True, False]
            assert keepers(world) == {"acknowledging": 1, "lost": 2}
            assert world.account.look().is_leading
        await until(lambda: is_ready(world))


async def test_one_lost_keeper_of_three_is_counted_and_does_not_matter(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold():
            await trio.sleep(DROPPED_SECONDS)
            assert keepers(world) == {"acknowledging": 2, "lost": 1}
            assert is_ready(world)


async def test_a_keeper_that_is_behind_what_is_in_memory_catches_up_and_is_no_part_of_the_majority(
    autojump_clock: MockClock, world: World
) -> None:
    late, away, _ = world.keepers
    async with world.sidecar(window_bytes=10_000):
        await world.commit()
        await until(lambda: all(keeper.is_whole for keeper in world.keepers))
        with late.hold():
            for _ in range(10):
                await world.commit(20_000)
            for donor in world.keepers:
                donor.refuses_readers = True
            late.cut()
        await until(lambda: keepers(world) == {"acknowledging": 2, "catching_up": 1})
        with away.hold():
            await trio.sleep(DROPPED_SECONDS)
            assert f"keeper {late.address}: it catches up" in awaited(world)[MAJORITY]
        for donor in world.keepers:
            donor.refuses_readers = False
        await until(lambda: keepers(world) == {"acknowledging": 3})


async def test_a_keeper_that_lost_its_disk_is_incomplete_until_enough_others_are_there(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    away, _, wiped = world.keepers
    async with world.sidecar():
        await world.commit()
        with away.hold():
            await trio.sleep(DROPPED_SECONDS)
            wiped.wipe()
            await until(lambda: keepers(world) == {"acknowledging": 1, "incomplete": 1, "lost": 1})
            assert f"keeper {wiped.address}: it is new or lost its disk" in awaited(world)[MAJORITY]
        await until(lambda: keepers(world) == {"acknowledging": 3})


# -- what waits ----------------------------------------------------------------------------------------------


async def test_what_no_majority_has_waits_and_its_time_is_counted_once_one_has_it(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        before = len(world.acks)
        with world.keepers[0].hold(), world.keepers[1].hold():
            world.primary.wal.logical_message("test", b"x")
            await until(lambda: world.account.look().received_lsn == world.primary.wal.lsn)
            await trio.sleep(30)
            assert world.account.look().waiting_seconds == pytest.approx(30, abs=2)
            assert world.account.look().commit_lsn < world.account.look().received_lsn
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)
        assert world.account.look().waiting_seconds == 0
    (waited,) = world.acks[before:]
    assert 30 <= waited < 60


async def test_it_goes_on_waiting_when_a_session_ends(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold(), world.keepers[1].hold():
            world.primary.wal.logical_message("test", b"x")
            await until(lambda: world.account.look().received_lsn == world.primary.wal.lsn)
            await trio.sleep(20)
            world.primary.cut()
            await until(lambda: world.account.look().sessions_ended == 1)
            sight = world.account.look()
            assert sight.waiting_seconds >= 20
            assert (sight.is_leading, sight.term, sight.received_lsn) == (False, 1, world.primary.wal.lsn)
            await trio.sleep(20)
            assert world.account.look().waiting_seconds >= 40
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)
        sight = world.account.look()
    assert (sight.waiting_seconds, sight.elections) == (0, 2)
    assert max(world.acks) >= 40


async def test_wal_that_the_primary_itself_has_lost_is_not_waited_for(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        earlier = await world.commit()
        with world.keepers[0].hold(), world.keepers[1].hold():
            world.primary.wal.logical_message("test", b"x")
            await until(lambda: world.account.look().received_lsn == world.primary.wal.lsn)
            world.primary.earlier_lsns = [earlier] * 5
            world.primary.cut()
            await until(lambda: not world.account.look().is_leading and awaited(world)[PRIMARY] == "")
            assert world.account.look().waiting_seconds == 0


async def test_a_record_whose_end_has_not_come_does_not_wait_for_keepers(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        begin = await world.commit()
        before = len(world.acks)
        world.primary.sends_below = Lsn(begin + 40)
        end = world.primary.wal.logical_message("test", bytes(100)).end
        await until(lambda: world.account.look().received_lsn == begin + 40)
        await trio.sleep(30)
        assert world.account.look().waiting_seconds == 0
        world.primary.sends_below = end
        await until(lambda: world.primary.confirmed_lsn == end)
    assert max(world.acks[before:]) < 5


async def test_a_small_record_that_is_whole_does_wait(autojump_clock: MockClock, world: World) -> None:
    """However much room its pages' headers could have taken."""
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold(), world.keepers[1].hold():
            world.primary.wal.logical_message("test", b"")
            await trio.sleep(5)
            assert world.account.look().waiting_seconds > 3


async def test_the_padding_behind_a_switch_of_segments_does_not_wait(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        end = world.primary.wal.switch().end
        await until(lambda: world.account.look().received_lsn >= end)
        await trio.sleep(30)
        assert world.account.look().waiting_seconds == 0
        await world.commit()
    assert max(world.acks) < 5


async def test_one_piece_of_wal_is_timed_at_a_time_and_what_came_meanwhile_is_not(
    autojump_clock: MockClock,
) -> None:
    acks: list[float] = []
    account = Account(3, acks.append)
    assert account.is_due(trio.current_time())
    account.arrived(Lsn(100), trio.current_time())
    await trio.sleep(2)
    assert not account.is_due(trio.current_time())
    account.committed(Lsn(99), Lsn(150))
    assert (acks, account.look().waiting_seconds) == ([], 2)
    account.committed(Lsn(100), Lsn(150))
    await trio.sleep(3)
    assert (acks, account.look().waiting_seconds) == ([2], 3)
    account.committed(Lsn(150), Lsn(150))
    assert (acks, account.look().waiting_seconds, account.is_due(trio.current_time())) == ([2], 0, True)
