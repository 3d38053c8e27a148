"""The sidecar between a primary and three keepers, all in memory and talking over real sockets.

The clock is Trio's fake one and jumps when nobody has anything to do, so that minutes of silence take no time.
"""

import pytest
import trio
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, until
from sidecar_world import World, has_all, kept_before
from walkeeper.errors import ConfigError, Fenced
from walkeeper.formats.segments import segment_start
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import NO_HOT_STANDBY, HotStandbyFeedback, ServerInfo
from walkeeper.proposer.follower import HOT_STANDBY_SECONDS
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator

# -- keeping -------------------------------------------------------------------------------------------------


async def test_what_is_confirmed_is_on_a_majority_of_keepers(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        for _ in range(20):
            end = await world.commit()
            assert sum(keeper.flush_lsn >= end for keeper in world.keepers) >= 2
    for keeper in world.keepers:
        assert bytes(keeper.wal) == world.primary.read(keeper.start_lsn)[: len(keeper.wal)]


async def test_nothing_is_confirmed_while_only_a_minority_is_there(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        confirmed = world.primary.confirmed_lsn
        with world.keepers[0].hold(), world.keepers[1].hold():
            world.primary.wal.logical_message("test", b"x")
            await trio.sleep(30)
            assert world.primary.confirmed_lsn == confirmed
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)


async def test_whom_commits_wait_for_is_said_once_and_when_they_do_not_any_more_too(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    first, second, third = world.keepers
    async with world.sidecar():
        with first.hold(), second.hold():
            await until(lambda: bool(world.log.said("no majority: commits wait")))
            await trio.sleep(60)
        await world.commit()
        await trio.sleep(60)
        with second.hold(), third.hold():
            await trio.sleep(60)
        await world.commit()
        await trio.sleep(60)
    told = [str(fields["missing"]) for fields in world.log.said("no majority: commits wait")]
    assert len(told) == 2
    assert [str(keeper.address) in told[0] for keeper in world.keepers] == [True, True, False]
    assert [str(keeper.address) in told[1] for keeper in world.keepers] == [False, True, True]
    assert len(world.log.said("majority is back")) == 2


async def test_a_keeper_that_lost_its_disk_is_named_among_those_whom_commits_wait_for(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    down, _, wiped = world.keepers
    async with world.sidecar():
        await world.commit()
        with down.hold():
            await until(lambda: bool(world.log.said("keeper lost")))
            wiped.wipe()
            await until(lambda: bool(world.log.said("no majority: commits wait")))
            await trio.sleep(60)
        await world.commit()
        await until(lambda: bool(world.log.said("majority is back")))
    (told,) = world.log.said("no majority: commits wait")
    doubted, _, missing = str(told["missing"]).partition("Bring back")
    assert f"keeper {wiped.address} cannot vouch" in doubted
    assert f"keeper {down.address}: " in missing


@pytest.mark.parametrize("whole", [0, 1])
async def test_an_election_for_which_too_few_keepers_vouch_says_what_may_be_lost(
    autojump_clock: MockClock, world: World, whole: int
) -> None:
    """Two of three lost their disks and got some WAL back: what they had acknowledged may be more."""
    await kept_before(world)
    for keeper in world.keepers[whole:]:
        keeper.is_whole = False
    async with world.sidecar():
        await world.commit()
    (told,) = world.log.said("acknowledged commits may be lost")
    assert told["quorum_ends_at"] == format_lsn(world.primary.wal.records[0].end)
    assert all(f"keeper {keeper.address}" in str(told["keepers"]) for keeper in world.keepers)
    assert str(told["keepers"]).count("incomplete") == 3 - whole
    assert ("a first start was interrupted" in str(told["why"])) is (whole == 0)  # which a whole keeper rules out


async def test_nothing_is_said_to_be_lost_at_a_first_start_nor_with_a_minority_of_new_disks(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    world.keepers[0].wipe()
    async with world.sidecar():
        await world.commit()
    assert not world.log.said("acknowledged commits may be lost")


async def test_a_quorum_that_is_not_the_keepers_listed_is_told(autojump_clock: MockClock, world: World) -> None:
    members = tuple(Member(NodeId(number), f"k{number}", 5454) for number in (1, 2))
    for keeper in world.keepers:
        keeper.configuration = Configuration(Generation(8), members)
    async with world.sidecar():
        await world.commit()
        (told,) = world.log.said("the quorum is not the keepers that are listed")
        assert told["members"] == "generation 8: 1, 2"
        with world.keepers[0].hold():
            await trio.sleep(30)
    (told,) = world.log.said("no majority: commits wait")
    assert told["members"] == "generation 8: 1, 2"


async def test_keepers_that_come_only_to_go_are_no_majority(autojump_clock: MockClock, world: World) -> None:
    first, second, _ = world.keepers
    async with world.sidecar():
        await world.commit()
        first.drops_appends = second.drops_appends = True
        await trio.sleep(120)
        assert len(world.log.said("no majority: commits wait")) == 1
        assert not world.log.said("majority is back")
        first.drops_appends = second.drops_appends = False
        await world.commit()
        await until(lambda: bool(world.log.said("majority is back")))


async def test_a_first_start_says_that_it_waits_for_every_keeper(autojump_clock: MockClock, world: World) -> None:
    new, also_new, down = world.keepers
    async with world.sidecar():
        with down.hold():
            await until(lambda: bool(world.log.said("no majority: commits wait")))
        await world.commit()
    (told,) = world.log.said("no majority: commits wait")
    doubted, _, missing = str(told["missing"]).partition("Bring back")
    assert f"keeper {new.address}, keeper {also_new.address} cannot vouch" in doubted
    assert "all of them for a first start" in missing
    assert f"keeper {down.address}: " in missing
    assert str(new.address) not in missing


async def test_a_start_without_any_trouble_is_not_talked_about(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
        await trio.sleep(60)
    assert not world.log.said("no majority: commits wait")
    assert not world.log.said("majority is back")


async def test_a_majority_that_is_away_for_a_moment_is_not_talked_about(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        for keeper in world.keepers:
            keeper.cut()
        await world.commit()
        await trio.sleep(60)
    assert not world.log.said("no majority: commits wait")
    assert not world.log.said("majority is back")


async def test_a_keeper_that_is_lost_again_for_the_same_reason_is_told_of_again(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        for losses in (1, 2):
            await world.commit()
            await trio.sleep(60)
            world.keepers[2].cut()
            await until(lambda losses=losses: len(world.log.said("keeper lost")) == losses)  # type: ignore[misc]


async def test_a_keeper_that_is_lost_at_each_append_is_told_of_a_few_times_and_again_when_it_stays(
    autojump_clock: MockClock, world: World
) -> None:
    """As one whose disk is full, for as long as it is."""
    cramped = world.keepers[2]

    def said(event: str) -> int:
        return [line["keeper"] for line in world.log.said(event)].count(str(cramped.address))

    async with world.sidecar():
        await world.commit()
        await trio.sleep(60)
        cramped.drops_appends = True
        for _ in range(100):
            await world.commit()
            await trio.sleep(1)
        assert (said("keeper lost"), said("keeper connected")) == (2, 2)
        cramped.drops_appends = False
        for _ in range(20):
            await world.commit()
            await trio.sleep(1)
        assert (said("keeper lost"), said("keeper connected")) == (2, 3)


async def test_an_empty_quorum_starts_at_the_start_of_the_segment(autojump_clock: MockClock, world: World) -> None:
    for _ in range(40):
        world.primary.wal.logical_message("before", bytes(50_000))
    async with world.sidecar():
        await world.commit()
    start = segment_start(world.primary.slots["walkeeper"], SEGMENT_BYTES)
    assert {keeper.start_lsn for keeper in world.keepers} == {start}
    assert start > world.primary.wal.start


async def test_a_promoted_primary_is_kept_from_the_first_segment_of_its_own_on(
    autojump_clock: MockClock, world: World
) -> None:
    start = world.primary.wal.start
    world.primary.wal = WalGenerator(start, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID, tli=2)
    world.primary.switched_at = Lsn(start + 0x2000)
    world.primary.wal.logical_message("test", b"before")
    with pytest.raises(ConfigError):
        await world.run_to_end()
    world.assert_nothing_reached_keepers()
    world.primary.wal.switch()
    async with world.sidecar():
        await world.commit()
    assert {keeper.start_lsn for keeper in world.keepers if keeper.wal} == {start + SEGMENT_BYTES}


async def test_the_timeline_is_named_after_the_system(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
    ttid = TenantTimelineId.of_system(SYSTEM_ID)
    expected = f"-c timeline_id={ttid.timeline_id} tenant_id={ttid.tenant_id}"
    assert world.keepers[0].parameters["options"] == expected


async def test_the_sidecar_presents_itself_under_the_name_that_commits_wait_for(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
    stream, *looks = world.primary.startups
    assert stream["application_name"] == "walkeeper"
    assert stream["replication"] == "true"
    assert "walkeeper" not in [look["application_name"] for look in looks]


async def test_a_hung_keeper_delays_no_commit_and_is_dropped_then_catches_up(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold():
            before = trio.current_time()
            for _ in range(10):
                await world.commit()
            assert trio.current_time() - before < 5
            await until(lambda: bool(world.log.said("keeper lost")))
        await until(lambda: has_all(world.keepers[0], world.primary))


async def test_a_keeper_that_was_cut_off_comes_back_and_gets_what_it_missed(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        world.keepers[2].cut()
        await world.commit()
        await until(lambda: has_all(world.keepers[2], world.primary))


async def test_a_keeper_that_missed_much_is_caught_up_at_full_speed(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the kernel takes more than is encoded at once, and so never makes us wait."""
    monkeypatch.setattr("walkeeper.links.keeper_link.SEND_AHEAD_BYTES", 1)
    async with world.sidecar():
        await world.commit()
        with world.keepers[0].hold():
            for _ in range(30):
                await world.commit(200_000)
            world.keepers[0].cut()
        before = trio.current_time()
        await until(lambda: has_all(world.keepers[0], world.primary))
        assert trio.current_time() - before < 3


async def test_a_keeper_that_lost_its_disk_is_filled_by_another_and_not_by_the_primary(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar(window_bytes=10_000):
        for _ in range(10):
            await world.commit(20_000)
        world.keepers[1].wipe()
        await world.commit(20_000)
        await until(lambda: has_all(world.keepers[1], world.primary))
    streams = [query for query in world.primary.queries if query.startswith("START_REPLICATION")]
    assert len(streams) == 1
    assert any("(term='1')" in query for keeper in world.keepers for query in keeper.queries)


async def test_a_keeper_that_lags_counts_for_commits_as_soon_as_it_has_caught_up(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar(window_bytes=10_000):
        await world.commit()
        await until(lambda: all(keeper.is_whole for keeper in world.keepers))
        with world.keepers[0].hold():
            for _ in range(10):
                await world.commit(20_000)
            world.keepers[0].cut()
        with world.keepers[1].hold():
            await world.commit()
    assert world.keepers[0].flush_lsn >= world.primary.confirmed_lsn


async def test_the_primary_hears_from_us_every_second_even_if_nothing_happens(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        before = world.primary.statuses
        await trio.sleep(60)
        assert world.primary.statuses - before >= 55


async def test_the_primary_hears_what_standbys_behind_keepers_need_when_that_changes(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        await trio.sleep(3)
        assert world.primary.heard_needs == [(0, 0)]  # whatever the slot remembers from before
        world.keepers[0].hot_standby = HotStandbyFeedback(1, 30, 0)
        await trio.sleep(3)
        world.keepers[1].hot_standby = HotStandbyFeedback(1, 20, 0)
        await trio.sleep(30)
        assert world.primary.heard_needs == [(0, 0), (30, 0), (20, 0)]
        world.keepers[1].hot_standby = NO_HOT_STANDBY
        await trio.sleep(3)
    assert world.primary.heard_needs == [(0, 0), (30, 0), (20, 0), (30, 0)]


async def test_what_standbys_behind_a_lost_keeper_need_is_kept_for_a_while_but_not_for_ever(
    autojump_clock: MockClock, world: World
) -> None:
    """They may never have lost their keeper; what they can see would be removed under them."""
    async with world.sidecar():
        world.keepers[0].hot_standby = HotStandbyFeedback(1, 30, 0)
        await world.commit()
        await trio.sleep(3)
        world.primary.heard_needs.clear()
        with world.keepers[0].hold():
            await trio.sleep(HOT_STANDBY_SECONDS - 10)
            assert world.primary.heard_needs == []
            await trio.sleep(20)
            assert world.primary.heard_needs == [(0, 0)]


async def test_a_keeper_that_blinks_lets_nothing_go_of_what_standbys_behind_it_need(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        world.keepers[0].hot_standby = HotStandbyFeedback(1, 30, 0)
        await world.commit()
        await trio.sleep(3)
        world.primary.heard_needs.clear()
        for _ in range(20):
            world.keepers[0].cut()
            await trio.sleep(0.7)
        world.keepers[0].hot_standby = HotStandbyFeedback(2, 40, 0)
        await trio.sleep(5)
    assert world.primary.heard_needs == [(40, 0)]


async def test_a_restarted_sidecar_says_nothing_of_standbys_before_its_keepers_have(
    autojump_clock: MockClock, world: World
) -> None:
    """The slot remembers what they needed; a moment without is enough for vacuum."""
    read_from = world.keepers[2]  # not the first, which is asked for its WAL as well
    async with world.sidecar():
        read_from.hot_standby = HotStandbyFeedback(1, 30, 0)
        await world.commit()
        await trio.sleep(3)
    world.primary.heard_needs.clear()
    read_from.dies_after_voting = True
    async with world.sidecar():
        await until(lambda: read_from.held)
        await trio.sleep(5)
        assert world.primary.heard_needs == []
        read_from.dies_after_voting = read_from.held = False
        await until(lambda: bool(world.primary.heard_needs))
    assert world.primary.heard_needs == [(30, 0)]


async def test_idle_keepers_hear_heartbeats(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
        await trio.sleep(1)
        before = world.keepers[0].appends
        await trio.sleep(60)
        assert 55 <= world.keepers[0].appends - before <= 65
    assert not world.log.said("keeper lost")


async def test_keepers_learn_of_a_commit_soon_even_without_more_wal(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        end = await world.commit()
        await trio.sleep(0.1)
        assert [keeper.commit_lsn for keeper in world.keepers] == [end] * 3


async def test_the_primary_waits_while_the_window_is_full_of_what_no_quorum_has(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar(window_bytes=100_000):
        await world.commit()
        with world.keepers[0].hold(), world.keepers[1].hold():
            for _ in range(100):
                world.primary.wal.logical_message("flood", bytes(50_000))
            await trio.sleep(60)
            assert len(world.keepers[2].wal) < 2_000_000
        assert not world.log.said("session ended")
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)


async def test_a_record_longer_than_the_window_passes(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar(window_bytes=100_000):
        await world.commit(3_000_000)
        await world.commit()


async def test_a_switch_of_segments_is_confirmed_no_further_than_it_was_received(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        world.primary.wal.switch()
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)
        await world.commit()


# -- another leadership --------------------------------------------------------------------------------------


async def test_a_primary_that_was_away_goes_on_in_a_new_term(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
        world.primary.cut()
        await world.commit()
        assert world.keepers[0].term == 2
    assert len(world.log.said("session ended")) == 1


async def test_wal_that_comes_twice_is_not_kept_twice(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
        world.primary.stutters = True
        await world.commit()
        await until(lambda: all(has_all(keeper, world.primary) for keeper in world.keepers))
    assert len(world.log.said("session ended")) == 1


async def test_a_primary_that_falls_silent_is_left_and_looked_for_again(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        with world.primary.hold():
            await until(lambda: bool(world.log.said("session ended")))
        await world.commit()


async def test_a_restarted_sidecar_continues_where_the_quorum_ends(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
    world.primary.wal.logical_message("meanwhile", b"x")
    async with world.sidecar():
        await world.commit()
    assert all(bytes(each.wal) == world.primary.read(each.start_lsn)[: len(each.wal)] for each in world.keepers)
    assert max(keeper.term for keeper in world.keepers) == 2


async def test_a_primary_that_went_on_until_its_writer_was_fenced_is_not_behind(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        earlier = await world.commit()
        await world.commit()
    world.primary.earlier_lsns.append(earlier)
    async with world.sidecar():
        await world.commit()


async def test_an_idle_primary_is_led_without_new_wal(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
    world.primary.confirmed_lsn = Lsn(0)
    async with world.sidecar():
        await until(lambda: world.primary.confirmed_lsn == world.primary.wal.lsn)


async def test_a_vote_counts_although_nonsense_follows_it_in_one_breath(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    for keeper in world.keepers:
        keeper.babbles_once = True
    async with world.sidecar():
        await world.commit()
    assert not any(keeper.babbles_once for keeper in world.keepers)


async def test_a_second_sidecar_fences_the_first(autojump_clock: MockClock, world: World) -> None:
    async with trio.open_nursery() as nursery:
        fenced = trio.Event()

        async def first() -> None:
            with pytest.raises(Fenced) as caught:
                await world.run_to_end()
            assert caught.value.own == 1
            assert caught.value.term == 2
            fenced.set()

        nursery.start_soon(first)
        await world.commit()
        async with world.sidecar():
            await fenced.wait()
            await world.commit()


async def test_a_fenced_sidecar_does_not_come_back_after_its_primary_was_away(
    autojump_clock: MockClock, world: World
) -> None:
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def first() -> None:
            with pytest.raises(Fenced) as caught:
                await world.run_to_end()
            assert (caught.value.own, caught.value.term) == (1, 9)
            ended.set()

        nursery.start_soon(first)
        await world.commit()
        for keeper in world.keepers:
            keeper.term = Term(9)  # another writer was here
        world.primary.cut()
        await ended.wait()
    assert {keeper.term for keeper in world.keepers} == {9}


async def test_the_slot_of_a_predecessor_is_waited_for(autojump_clock: MockClock, world: World) -> None:
    world.primary.refusals["START_REPLICATION"] = ("55006", 'replication slot "walkeeper" is active for PID 7')
    async with world.sidecar():
        await trio.sleep(3)
        world.primary.refusals.clear()
        await world.commit()
    assert not world.log.said("session ended")


async def test_keepers_learn_what_server_the_wal_is_from(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
    assert world.keepers[0].server == ServerInfo(150005, SYSTEM_ID, SEGMENT_BYTES)
