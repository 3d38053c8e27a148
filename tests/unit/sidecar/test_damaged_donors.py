"""Keepers whose stored WAL has changed under them, and others that are filled from them.

The clock is Trio's fake one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from fake_servers import Client, FakeKeeper, until
from sidecar_world import World, has_all
from walkeeper.formats.xlog import Record, RecordVerifier
from walkeeper.ids import NodeId
from walkeeper.lsn import LSN_MAX, Lsn

WINDOW_BYTES = 10_000  # less than any keeper here has to catch up with
RECORD_BYTES = 20_000


async def commit_some(world: World, size: int = RECORD_BYTES) -> None:
    for _ in range(10):
        await world.commit(size)
    await until(lambda: all(keeper.is_whole and has_all(keeper, world.primary) for keeper in world.keepers))


def damage(keeper: FakeKeeper, record: int, world: World) -> Lsn:
    """Flip a bit in the middle of one of the primary's records; where that starts."""
    start, end, _ = world.primary.wal.records[record]
    keeper.wal[(start + end) // 2 - keeper.start_lsn] ^= 1
    return start


def sound_part(keeper: FakeKeeper, world: World) -> bytes:
    return world.primary.read(keeper.start_lsn)[: len(keeper.wal)]


async def test_wal_that_is_damaged_on_its_donor_comes_from_another_one(
    autojump_clock: MockClock, world: World
) -> None:
    damaged, wiped, _ = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        start = damage(damaged, 5, world)
        wiped.wipe()
        await until(lambda: has_all(wiped, world.primary) and wiped.is_whole)
    (told,) = world.log.said("donor's WAL is damaged")
    assert (told["donor"], told["lsn"]) == (str(damaged.address), f"{start >> 32:X}/{start & 0xFFFFFFFF:X}")
    assert not world.log.said("session ended")


async def test_a_keeper_that_nobody_has_sound_wal_for_does_not_become_whole_and_harms_no_others(
    autojump_clock: MockClock, world: World
) -> None:
    damaged, wiped, also_damaged = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        start = damage(damaged, 5, world)
        damage(also_damaged, 5, world)
        wiped.wipe()
        await until(lambda: bool(world.log.said("no sound donor")))
        asked = len(damaged.queries) + len(also_damaged.queries)
        for _ in range(100):
            await world.commit()
            await trio.sleep(1)
        assert len(damaged.queries) + len(also_damaged.queries) == asked
        assert not wiped.is_whole
        assert wiped.flush_lsn <= start
        assert bytes(wiped.wal) == sound_part(wiped, world)
    (told,) = world.log.said("no sound donor")
    assert "walkeeper inspect" in str(told["remedy"])
    assert all(str(keeper.address) in str(told["damaged"]) for keeper in (damaged, also_damaged))
    assert not world.log.said("session ended")


async def test_a_keeper_that_waits_for_sound_wal_is_named_when_commits_wait(
    autojump_clock: MockClock, world: World
) -> None:
    damaged, wiped, also_damaged = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        for keeper in (damaged, also_damaged):
            damage(keeper, 5, world)
        wiped.wipe()
        await until(lambda: bool(world.log.said("no sound donor")))
        with also_damaged.hold():
            await until(lambda: bool(world.log.said("no majority: commits wait")))
    (told,) = world.log.said("no majority: commits wait")
    assert f"keeper {wiped.address}: " in str(told["missing"])
    assert str(damaged.address) in str(told["missing"])


async def test_a_donor_that_was_repaired_is_asked_again(autojump_clock: MockClock, world: World) -> None:
    damaged, wiped, away = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        damage(damaged, 5, world)
        with away.hold():
            away.cut()
            wiped.wipe()
            await until(lambda: bool(world.log.said("no sound donor")))
            damage(damaged, 5, world)  # back to what it was
            damaged.cut()
            await until(lambda: has_all(wiped, world.primary))


async def test_donors_that_are_damaged_at_different_places_make_up_for_each_other(
    autojump_clock: MockClock, world: World
) -> None:
    one, wiped, other = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        damage(one, 5, world)
        damage(other, 2, world)
        damage(other, 8, world)
        wiped.wipe()
        await until(lambda: has_all(wiped, world.primary) and wiped.is_whole)


async def test_a_keeper_forgets_what_it_was_sent_of_a_long_record_that_turns_out_to_be_damaged(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long to be held back as a whole."""
    hold_little_back(monkeypatch)
    await a_long_record_is_damaged(autojump_clock, world)
    assert len(world.log.said("donor's WAL is damaged")) == 1
    assert len(world.log.said("keeper lost")) == 2  # when it was wiped, and to forget


def hold_little_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than one of ``a_long_record_is_damaged``, which comes in several receives."""
    monkeypatch.setattr("walkeeper.links.donor.HELD_BYTES_MAX", 10_000)
    monkeypatch.setattr("walkeeper.links.link.RECEIVE_BYTES_MAX", 20_000)
    monkeypatch.setattr("walkeeper.links.link.FLOOD_BYTES_MAX", 20_000)


async def a_long_record_is_damaged(_clock: MockClock, world: World) -> None:
    damaged, wiped, _ = world.keepers
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world, 300_000)
        damage(damaged, 5, world)
        wiped.wipe()
        await until(lambda: has_all(wiped, world.primary) and wiped.is_whole)


@dataclass
class LeavingDonor(FakeKeeper):
    """Gives WAL up to ``leaves_at``, once, and refuses then."""

    leaves_at: Lsn = LSN_MAX

    async def send_wal(
        self, client: Client, begin: Lsn, read: Callable[[Lsn], bytes], end: Callable[[], Lsn]
    ) -> None:
        def read_up_to(lsn: Lsn) -> bytes:
            if lsn >= self.leaves_at:
                self.refuses_readers = True
                raise trio.BrokenResourceError
            return read(lsn)[: self.leaves_at - lsn]

        await super().send_wal(client, begin, read_up_to, end)


async def test_a_keeper_forgets_what_it_was_sent_of_a_long_record_whose_donor_was_lost(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That part was damaged, and nobody can know: the other donor gives the record from its beginning."""
    hold_little_back(monkeypatch)
    donor = LeavingDonor(node_id=NodeId(1))
    world = World(keepers=[donor, FakeKeeper(node_id=NodeId(2)), FakeKeeper(node_id=NodeId(3))])
    for server in (world.primary, *world.keepers):
        await nursery.start(server.serve)
    wiped = world.keepers[1]
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world, 300_000)
        start, end, _ = world.primary.wal.records[5]
        donor.wal[start + 1000 - donor.start_lsn] ^= 1
        donor.leaves_at = Lsn((start + end) // 2)
        wiped.wipe()
        await until(lambda: donor.refuses_readers)
        with donor.hold():
            donor.cut()
            await until(lambda: has_all(wiped, world.primary))


async def test_a_keeper_gets_the_whole_of_a_long_record_from_its_donor_although_the_window_has_the_end(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window begins in the middle of the record: what comes before that was not verified to its end."""
    hold_little_back(monkeypatch)
    damaged, wiped, _ = world.keepers
    async with world.sidecar(window_bytes=150_000):
        await commit_some(world, 300_000)
        start, _, _ = world.primary.wal.records[-1]
        damaged.wal[start + 1000 - damaged.start_lsn] ^= 1
        wiped.wipe()
        await until(lambda: has_all(wiped, world.primary) and wiped.is_whole)


async def test_a_keeper_that_has_had_a_part_of_a_record_gets_the_rest(
    autojump_clock: MockClock, world: World
) -> None:
    """It stopped in the middle of what the sidecar has let go of since."""
    lagging = world.keepers[1]
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        with lagging.hold():
            for _ in range(10):
                await world.commit(1_000_000)
        await until(lambda: has_all(lagging, world.primary))
    assert world.log.said("keeper catches up")
    assert not world.log.said("donor's WAL is damaged")


async def test_a_keeper_behind_a_switch_of_segments_is_caught_up(autojump_clock: MockClock, world: World) -> None:
    wiped = world.keepers[1]
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world)
        world.primary.wal.switch()
        await commit_some(world)
        wiped.wipe()
        await until(lambda: has_all(wiped, world.primary) and wiped.is_whole)
    assert not world.log.said("donor's WAL is damaged")


async def test_a_commit_does_not_wait_for_more_than_a_few_records_to_be_verified(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    monkeypatch.setattr("walkeeper.links.keeper_link.RecordVerifier", turns.verifier)
    trio.lowlevel.add_instrument(turns)
    async with world.sidecar(window_bytes=WINDOW_BYTES):
        await commit_some(world, 10)
        for _ in range(10_000):
            world.primary.wal.logical_message("test", b"")
        await world.commit(RECORD_BYTES)
        world.keepers[1].wipe()
        await until(lambda: has_all(world.keepers[1], world.primary))
    assert 50 <= turns.most_records < 300


class Turns(trio.abc.Instrument):
    """What is verified between two turns of the scheduler."""

    def __init__(self) -> None:
        self.records = self.most_records = 0

    def before_io_wait(self, timeout: float) -> None:
        self.records = 0

    def verifier(self, *arguments: object, **options: object) -> RecordVerifier:
        turns = self

        class Counting(RecordVerifier):
            def feed(self, wal: bytes | memoryview) -> list[Record]:
                records = super().feed(wal)
                turns.records += len(records)
                turns.most_records = max(turns.most_records, turns.records)
                return records

        return Counting(*arguments, **options)  # type: ignore[arg-type]
