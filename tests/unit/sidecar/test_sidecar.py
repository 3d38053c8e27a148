"""The sidecar between a primary and three keepers, all in memory and talking over real sockets.

The clock is Trio's fake one and jumps when nobody has anything to do, so that minutes of silence take no time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fake_servers import SEGMENT_BYTES, SYSTEM_ID, UNTIL_SECONDS, FakeKeeper, FakePrimary, RecordingLog, until
from walkeeper.errors import ConfigError, Fenced
from walkeeper.formats.segments import segment_start
from walkeeper.ids import NodeId, TenantTimelineId
from walkeeper.links.conninfo import ConnectionInfo, SslMode
from walkeeper.lsn import Lsn
from walkeeper.messages import ServerInfo
from walkeeper.sidecar.config import ProposeConfig
from walkeeper.sidecar.run import run_sidecar
from walkeeper.terms import Term
from walkeeper.testing.wal import WalGenerator


@dataclass
class World:
    """A primary, three keepers, and sidecars to start."""

    primary: FakePrimary = field(default_factory=FakePrimary)
    keepers: list[FakeKeeper] = field(default_factory=lambda: [FakeKeeper(node_id=NodeId(n)) for n in (1, 2, 3)])
    log: RecordingLog = field(default_factory=RecordingLog)

    def config(self, **changes: Any) -> ProposeConfig:
        info = ConnectionInfo("127.0.0.1", self.primary.port, sslmode=SslMode.DISABLE)
        return replace(ProposeConfig(info, tuple(keeper.address for keeper in self.keepers)), **changes)

    @asynccontextmanager
    async def sidecar(self, **changes: Any) -> AsyncIterator[None]:
        """A sidecar that runs within the block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_sidecar, self.config(**changes), log=self.log))
            yield
            nursery.cancel_scope.cancel()

    async def run_to_end(self, **changes: Any) -> None:
        """A sidecar that ends by itself."""
        with trio.fail_after(UNTIL_SECONDS):
            await run_sidecar(self.config(**changes), log=self.log)

    async def commit(self, size: int = 100) -> Lsn:
        """Write a record on the primary and wait until it is confirmed."""
        end = self.primary.wal.logical_message("test", bytes(size)).end
        await until(lambda: self.primary.confirmed_lsn >= end)
        return end

    def assert_nothing_reached_keepers(self) -> None:
        assert [keeper.history.entries for keeper in self.keepers] == [(), (), ()]
        assert [bytes(keeper.wal) for keeper in self.keepers] == [b"", b"", b""]


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    world = World()
    for server in (world.primary, *world.keepers):
        await nursery.start(server.serve)
    return world


def has_all(keeper: FakeKeeper, primary: FakePrimary) -> bool:
    return keeper.flush_lsn == primary.wal.lsn and bytes(keeper.wal) == primary.read(keeper.start_lsn)


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
    assert world.primary.parameters["application_name"] == "walkeeper"
    assert world.primary.parameters["replication"] == "true"


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
            with pytest.raises(Fenced):
                await world.run_to_end()
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


# -- refusals ------------------------------------------------------------------------------------------------


async def kept_before(world: World) -> None:
    """The keepers have some WAL of the primary."""
    async with world.sidecar():
        await world.commit()
        await until(lambda: all(has_all(keeper, world.primary) for keeper in world.keepers))


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
    server = world.keepers[1].server
    assert server is not None
    world.keepers[1].server = replace(server, system_id=77)
    await assert_refused_and_keepers_untouched(world)
    assert {keeper.term for keeper in world.keepers} == {1}


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
        ({"synchronous_standby_names": "ANY 1 (other, WalKeeper)"}, 0),
        ({"synchronous_standby_names": "*"}, 0),
        ({"synchronous_standby_names": '"walkeeper"'}, 0),
        ({"synchronous_standby_names": ""}, 1),
        ({"synchronous_standby_names": "walkeeper2"}, 1),
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


async def test_a_primary_that_is_not_there_yet_is_waited_for(autojump_clock: MockClock, world: World) -> None:
    world.primary.refusals["IDENTIFY_SYSTEM"] = ("57P03", "the database system is starting up")
    async with world.sidecar():
        await trio.sleep(30)
        world.primary.refusals.clear()
        await world.commit()


async def test_keepers_learn_what_server_the_wal_is_from(autojump_clock: MockClock, world: World) -> None:
    async with world.sidecar():
        await world.commit()
    assert world.keepers[0].server == ServerInfo(150005, SYSTEM_ID, SEGMENT_BYTES)
