"""What a sidecar refuses, before or after it has asked keepers for their votes, and what it puts up with."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, FakeKeeper, FakePrimary, until
from sidecar_world import World, has_all, kept_before
from walkeeper.errors import ConfigError
from walkeeper.ids import NodeId
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.links.primary import flaw_of_standby_names
from walkeeper.lsn import Lsn
from walkeeper.testing.wal import WalGenerator


async def assert_refused_and_keepers_untouched(world: World, **changes: Any) -> None:
    before = [(bytes(keeper.wal), keeper.history) for keeper in world.keepers]
    with pytest.raises(ConfigError) as caught:
        await world.run_to_end(**changes)
    assert "\n" not in str(caught.value)
    assert [(bytes(keeper.wal), keeper.history) for keeper in world.keepers] == before


def rewritten(wal: WalGenerator, keep: int, sizes: list[int]) -> WalGenerator:
    """Another history: the first ``keep`` records of ``wal`` and then others."""
    other = WalGenerator(wal.start, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    for record in range(keep):
        del record
        other.logical_message("test", bytes(100))
    for size in sizes:
        other.logical_message("rest", bytes(size))
    return other


async def test_a_primary_that_lost_what_the_quorum_has_is_refused(autojump_clock: MockClock, world: World) -> None:
    await kept_before(world)
    world.primary.wal = WalGenerator(world.primary.wal.start, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    await assert_refused_and_keepers_untouched(world)


async def test_it_is_refused_after_the_election_if_no_keeper_knew_what_was_committed(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    for keeper in world.keepers:
        keeper.commit_lsn = keeper.start_lsn
    world.primary.wal = WalGenerator(world.primary.wal.start, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    await assert_refused_and_keepers_untouched(world)
    assert max(keeper.term for keeper in world.keepers) == 2


async def test_a_stale_copy_of_a_primary_does_not_fence_the_writer_that_is_well(
    autojump_clock: MockClock, world: World, nursery: trio.Nursery
) -> None:
    """That it lacks what is committed shows before any keeper is asked for its vote, even if one of them hangs."""
    async with world.sidecar():
        end = await world.commit()
        await until(lambda: all(keeper.commit_lsn == end for keeper in world.keepers))
        copy = FakePrimary()
        await nursery.start(copy.serve)
        info = ConnectionInfo("127.0.0.1", copy.port, sslmode=SslMode.DISABLE)
        with world.keepers[0].hold():
            await assert_refused_and_keepers_untouched(world, primary=info)
        await world.commit()
    assert {keeper.term for keeper in world.keepers} == {1}
    assert copy.slots == {}


async def test_a_keeper_of_another_cluster_does_not_make_a_primary_look_stale(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    misplace(world.keepers[0])
    world.keepers[0].commit_lsn = Lsn(1 << 40)
    async with world.sidecar():
        await world.commit()


@pytest.mark.parametrize("sizes", [[300], [100], [100, 100], [37, 500]])
async def test_a_primary_whose_wal_went_another_way_is_refused(
    autojump_clock: MockClock, world: World, sizes: list[int]
) -> None:
    await kept_before(world)
    world.primary.wal = rewritten(world.primary.wal, 0, sizes)
    await assert_refused_and_keepers_untouched(world)


async def test_a_primary_that_differs_only_behind_a_segment_start_is_refused(
    autojump_clock: MockClock, world: World
) -> None:
    """Nothing before the junction can be compared there: the first record's xl_prev tells."""
    wal = world.primary.wal
    async with world.sidecar():
        await world.commit()
        wal.record_up_to(Lsn(wal.start + SEGMENT_BYTES))
        await until(lambda: all(has_all(keeper, world.primary) for keeper in world.keepers))
    other = WalGenerator(wal.start, wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID)
    other.record_up_to(Lsn(wal.start + SEGMENT_BYTES))
    other.logical_message("other", b"x")
    world.primary.wal = other
    await assert_refused_and_keepers_untouched(world)


async def test_a_quorum_that_ends_at_a_segment_start_is_continued(autojump_clock: MockClock, world: World) -> None:
    wal = world.primary.wal
    async with world.sidecar():
        await world.commit()
        wal.record_up_to(Lsn(wal.start + SEGMENT_BYTES))
        await until(lambda: world.primary.confirmed_lsn == wal.lsn)
    async with world.sidecar():
        await world.commit()


async def test_another_cluster_is_refused(autojump_clock: MockClock, world: World) -> None:
    await kept_before(world)
    misplace(world.keepers[1])
    misplace(world.keepers[2])
    await assert_refused_and_keepers_untouched(world)
    assert {keeper.term for keeper in world.keepers} == {1}


def misplace(keeper: FakeKeeper) -> None:
    """It keeps another cluster's WAL under the same name."""
    assert keeper.server is not None
    keeper.server = replace(keeper.server, system_id=77)


@pytest.mark.parametrize("misplaced", [0, 1, 2])
async def test_one_misplaced_keeper_is_told_of_and_the_others_are_enough(
    autojump_clock: MockClock, world: World, misplaced: int
) -> None:
    """Even when it is the first, or the only one, that answers."""
    await kept_before(world)
    one, *others = world.keepers[misplaced:] + world.keepers[:misplaced]
    misplace(one)
    async with world.sidecar():
        with others[0].hold(), others[1].hold():
            await trio.sleep(30)
        await world.commit()
        await trio.sleep(30)
    assert one.term == 1
    assert [said["keeper"] for said in world.log.said("keeper lost")].count(str(one.address)) == 1


async def test_a_keeper_that_was_misplaced_and_is_not_any_more_counts_again(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    first, second, third = world.keepers
    server = first.server
    misplace(first)
    async with world.sidecar():
        with second.hold(), third.hold():
            await until(lambda: bool(world.log.said("keeper lost")))
            first.server = server
            await trio.sleep(30)
            misplace(second)
        await world.commit()


async def test_another_timeline_of_postgresql_is_refused(autojump_clock: MockClock, world: World) -> None:
    await kept_before(world)
    world.primary.wal.tli = 2
    await assert_refused_and_keepers_untouched(world)


async def test_a_keeper_that_comes_under_anothers_number_does_not_end_a_leader(
    autojump_clock: MockClock, world: World
) -> None:
    async with world.sidecar():
        await world.commit()
        world.keepers[2].wipe()
        world.keepers[2].node_id = NodeId(1)
        await world.commit()
        await trio.sleep(60)
        await world.commit()


async def test_a_keeper_listed_twice_is_refused(autojump_clock: MockClock, world: World) -> None:
    first = world.keepers[0].address
    with pytest.raises(ConfigError):
        await world.run_to_end(keepers=(first, first, world.keepers[1].address))
    world.assert_nothing_reached_keepers()


async def test_wal_that_the_primary_has_no_more_is_refused(autojump_clock: MockClock, world: World) -> None:
    await kept_before(world)
    world.primary.removed_below = Lsn(world.primary.wal.lsn + 1)
    await assert_refused_and_keepers_untouched(world)


async def test_a_slot_that_was_invalidated_is_refused(autojump_clock: MockClock, world: World) -> None:
    await kept_before(world)
    world.primary.refusals["START_REPLICATION"] = ("55000", "cannot read from this invalidated slot")
    await assert_refused_and_keepers_untouched(world)


async def test_no_slot_is_made_on_a_primary_that_keepers_do_not_know(
    autojump_clock: MockClock, world: World
) -> None:
    await kept_before(world)
    world.primary.slots.clear()
    world.primary.wal.tli = 2
    await assert_refused_and_keepers_untouched(world)
    assert world.primary.slots == {}


async def test_a_slot_that_stays_in_use_is_refused(autojump_clock: MockClock, world: World) -> None:
    world.primary.refusals["START_REPLICATION"] = ("55006", 'replication slot "walkeeper" is active for PID 7')
    with pytest.raises(ConfigError):
        await world.run_to_end()
    world.assert_nothing_reached_keepers()


async def test_a_slot_without_a_limit_is_not_made(autojump_clock: MockClock, world: World) -> None:
    world.primary.settings["max_slot_wal_keep_size"] = "-1"
    with pytest.raises(ConfigError) as caught:
        await world.run_to_end()
    assert "ALTER SYSTEM SET max_slot_wal_keep_size" in str(caught.value)
    assert world.primary.slots == {}


async def test_a_slot_without_a_limit_is_made_for_who_insists(autojump_clock: MockClock, world: World) -> None:
    world.primary.settings["max_slot_wal_keep_size"] = "-1"
    async with world.sidecar(unsafe_slot=True):
        await world.commit()
    assert set(world.primary.slots) == {"walkeeper"}


async def test_a_slot_that_exists_is_used_whatever_its_limit(autojump_clock: MockClock, world: World) -> None:
    world.primary.settings["max_slot_wal_keep_size"] = "-1"
    world.primary.slots["mine"] = world.primary.wal.lsn
    async with world.sidecar(slot_name="mine"):
        await world.commit()
    assert set(world.primary.slots) == {"mine"}


@pytest.mark.parametrize("name", ["", "Upper", "with space", "x" * 64, "quote'"])
async def test_what_postgresql_would_not_take_as_a_slot_name_is_refused(
    autojump_clock: MockClock, world: World, name: str
) -> None:
    with pytest.raises(ConfigError):
        await world.run_to_end(slot_name=name)


async def test_a_version_whose_wal_cannot_be_kept_is_refused(autojump_clock: MockClock, world: World) -> None:
    world.primary.settings["server_version_num"] = "130009"
    with pytest.raises(ConfigError):
        await world.run_to_end()


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, 0),
        ({"synchronous_standby_names": "ANY 2 (other, WalKeeper)"}, 0),
        ({"synchronous_standby_names": "FIRST 1 (walkeeper)"}, 0),
        ({"synchronous_standby_names": '"walkeeper"'}, 0),
        ({"synchronous_standby_names": ""}, 1),
        ({"synchronous_standby_names": "walkeeper2"}, 1),
        ({"synchronous_standby_names": "*"}, 1),
        ({"synchronous_standby_names": "walkeeper, other"}, 1),
        ({"synchronous_standby_names": "ANY 1 (other, walkeeper)"}, 1),
        ({"synchronous_commit": "local"}, 1),
        ({"synchronous_commit": "off", "synchronous_standby_names": ""}, 2),
    ],
)
async def test_settings_that_make_the_sidecar_useless_are_warned_of(
    autojump_clock: MockClock, world: World, settings: dict[str, str], warnings: int
) -> None:
    world.primary.settings |= settings
    async with world.sidecar():
        await world.commit()
    assert len(world.log.said("commits do not wait for keepers")) == warnings


@pytest.mark.parametrize(
    ("setting", "flaw"),
    [
        ("", "before any keeper has them"),
        ("walkeper", "or for ever"),
        ("2 (a, walkeeper, b)", "another standby"),
        ("FIRST 2(walkeeper, *)", "another standby"),
        ('"Wal""keeper"', "or for ever"),
    ],
)
def test_what_is_wrong_with_the_names_of_standbys_is_told(setting: str, flaw: str) -> None:
    assert flaw in flaw_of_standby_names(setting, "walkeeper")


async def test_a_primary_that_is_not_there_yet_is_waited_for(autojump_clock: MockClock, world: World) -> None:
    world.primary.refusals["IDENTIFY_SYSTEM"] = ("57P03", "the database system is starting up")
    async with world.sidecar():
        await trio.sleep(30)
        world.primary.refusals.clear()
        await world.commit()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("IDENTIFY_SYSTEM", ("x",)),
        ("IDENTIFY_SYSTEM", ("many", "1", "0/1000000", None)),
        ("IDENTIFY_SYSTEM", ("1", "one", "0/1000000", None)),
        ("IDENTIFY_SYSTEM", ("1", "1", "far", None)),
        ("IDENTIFY_SYSTEM", ("-1", "1", "0/1000000", None)),
        ("SHOW server_version_num", ("devel",)),
        ("SHOW server_version_num", ("150005", "150006")),
        ("SHOW wal_segment_size", ("sixteen",)),
        ("SHOW wal_segment_size", ("3MB",)),
        ("READ_REPLICATION_SLOT", ("physical",)),
        ("READ_REPLICATION_SLOT", ("physical", "near", None)),
        ("TIMELINE_HISTORY", ("00000002.history",)),
        ("TIMELINE_HISTORY", ("00000002.history", "")),
        ("TIMELINE_HISTORY", ("00000002.history", "1 there")),
    ],
)
async def test_a_primary_that_answers_nonsense_is_asked_again_later(
    autojump_clock: MockClock, world: World, question: str, answer: tuple[str | None, ...]
) -> None:
    if question == "TIMELINE_HISTORY":
        world.primary.wal = WalGenerator(Lsn(0x1000000), wal_seg_size=SEGMENT_BYTES, system_id=SYSTEM_ID, tli=2)
    world.primary.odd_answers[question] = answer
    async with world.sidecar():
        await trio.sleep(10)
        assert question in str(world.log.said("session ended")[0]["why"])
        world.primary.odd_answers.clear()
        await world.commit()
