"""What a keeper tells the others: little, of all timelines, and never an old answer to whether it serves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from keeping import SERVER, TTID, Leader, new_disk, timelines_on
from managed import NODE, REQUEST, managed_in
from walkeeper.control.collectors import HANGS_SECONDS, DiskJobs
from walkeeper.control.dump import KeeperConfig
from walkeeper.control.health import Readiness
from walkeeper.control.positions import FRESH_SECONDS, LOOKED_AT_IN_A_TURN, KeeperPositionsJson, Positions
from walkeeper.errors import StorageError
from walkeeper.lsn import format_lsn
from walkeeper.storage.disk import Space
from walkeeper.testing.memory_disk import Fault
from walkeeper.timeline.room import DiskLimits, Room
from walkeeper.timeline.timelines import Timelines

ROUTE = "/v1/walkeeper/positions"


def idle() -> DiskJobs:
    return DiskJobs(0, 0.0)


def positions_of(readiness: Readiness | None = None, disk: Callable[[], DiskJobs] = idle) -> Positions:
    return Positions(KeeperConfig(id=NODE), "me", readiness or Readiness(), disk)


async def told_by(positions: Positions) -> KeeperPositionsJson:
    return msgspec.json.decode(await positions.look(), type=KeeperPositionsJson)


async def test_positions_are_told_of_each_timeline_with_its_members(tmp_path: Path) -> None:
    async with managed_in(tmp_path) as managed:
        await managed.create()
        await managed.create(timeline_id="cd" * 16, mconf={"generation": 0, "members": []})
        status, answer = await managed.ask("GET", ROUTE)
    assert status == 200
    assert (answer["id"], answer["state"]) == (NODE, "serving")
    assert (answer["is_ready"], answer["is_caught_up"], answer["takes_wal"]) == (True, True, True)
    told = {each["timeline_id"]: each for each in answer["timelines"]}
    assert told["ab" * 16] == {
        "tenant_id": REQUEST["tenant_id"],
        "timeline_id": "ab" * 16,
        "start_lsn": "0/302760",
        "flush_lsn": "0/302760",
        "commit_lsn": "0/302760",
        "commit_term": 0,
        "is_whole": False,
        "generation": 3,
        "members": [1, 7],
    }
    assert (told["cd" * 16]["generation"], told["cd" * 16]["members"]) == (0, [])


async def test_the_overview_has_the_same_instance_and_another_process_another_one(tmp_path: Path) -> None:
    async with managed_in(tmp_path) as managed:
        _, answer = await managed.ask("GET", ROUTE)
        _, overview = await managed.ask("GET", "/v1/walkeeper/overview")
    (tmp_path / "other").mkdir()
    async with managed_in(tmp_path / "other") as managed:
        _, other = await managed.ask("GET", ROUTE)
    assert answer["instance"] == overview["keeper"]["instance"]
    assert answer["instance"] != other["instance"]


async def test_what_is_flushed_and_committed_is_told(autojump_clock: MockClock) -> None:
    async with timelines_on(new_disk()) as timelines:
        positions = positions_of()
        positions.begin(timelines)
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        first = await leader.append()
        reply = await leader.append(commit=first.flush_lsn)
        (told,) = (await told_by(positions)).timelines
        assert (told.flush_lsn, told.commit_lsn) == (format_lsn(reply.flush_lsn), format_lsn(first.flush_lsn))
        assert told.start_lsn == format_lsn(leader.wal.start)
        assert told.commit_term == leader.term
        await timelines.delete(TTID)
        await trio.sleep(FRESH_SECONDS)
        assert (await told_by(positions)).timelines == []


async def test_what_was_told_of_a_timeline_is_told_while_it_cannot_be_used(autojump_clock: MockClock) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        positions = positions_of()
        positions.begin(timelines)
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        reply = await leader.append()
        await leader.append(commit=reply.flush_lsn)
        before = (await told_by(positions)).timelines
        disk.faults[disk.operations] = Fault.IO_ERROR
        with pytest.raises(StorageError):
            await leader.append()
        disk.is_out_of_files = True
        await trio.sleep(FRESH_SECONDS)
        assert leader.timeline.usable_state is None
        assert (await told_by(positions)).timelines == before
        disk.is_out_of_files = False
        await timelines.delete(TTID)
        await trio.sleep(FRESH_SECONDS)
        assert (await told_by(positions)).timelines == []


@pytest.mark.parametrize("state", ["starting", "serving", "leaving", "draining"])
async def test_whether_it_serves_is_told_as_it_is_now(state: str) -> None:
    readiness = Readiness("listener")
    positions = positions_of(readiness)
    assert (await told_by(positions)).state == "starting"
    if state != "starting":
        readiness.reached("listener")
    if state in ("leaving", "draining"):
        readiness.leave()
    if state == "draining":
        readiness.drain("listener")
    told = await told_by(positions)
    assert (told.state, told.is_ready, told.is_caught_up) == (state, state == "serving", True)
    readiness.hinder("caught up", "not yet")
    told = await told_by(positions)
    assert (told.state, told.is_ready, told.is_caught_up) == (state, False, False)


@pytest.mark.parametrize("free_bytes", [0, 10**9])
@pytest.mark.parametrize("oldest_seconds", [HANGS_SECONDS - 0.1, HANGS_SECONDS])
async def test_a_disk_that_is_full_or_hangs_takes_no_wal_whatever_readiness_says(
    free_bytes: int, oldest_seconds: float
) -> None:
    async def look() -> Space:
        return Space(10**9, free_bytes)

    readiness = Readiness()
    async with timelines_on(new_disk(), limits=DiskLimits(0.5, 0, 60)) as timelines:
        positions = positions_of(readiness, lambda: DiskJobs(1, oldest_seconds))
        assert (await told_by(positions)).takes_wal is (oldest_seconds < HANGS_SECONDS)
        positions.begin(timelines)
        await timelines.room.look(look)
        told = await told_by(positions)
        assert (told.takes_wal, told.is_ready) == (free_bytes > 0 and oldest_seconds < HANGS_SECONDS, True)


class Counted:
    """Timelines that nobody can use, and how often they were looked at."""

    usable_state, ttid, room = None, TTID, Room()

    def __init__(self, count: int) -> None:
        self.count = count
        self.looks = 0

    def all(self) -> "list[Counted]":
        self.looks += 1
        return [self] * self.count


async def test_however_many_ask_the_timelines_are_looked_at_once_and_others_run(autojump_clock: MockClock) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    timelines = Counted(10 * LOOKED_AT_IN_A_TURN)
    positions = positions_of()
    positions.begin(cast("Timelines", timelines))
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(json.loads(await positions.look()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with trio.open_nursery() as asking:
            for _ in range(5):
                asking.start_soon(ask)
        nursery.cancel_scope.cancel(reason="seen")
    assert (len(answers), timelines.looks) == (5, 1)
    assert turns >= 9
