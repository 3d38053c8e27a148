"""The map: what is created stays, is found again, and what cannot be read is named and left alone."""

import pytest
import trio
import trio.testing

from keeping import DATA, SERVER, START, TTID, Leader, new_disk, timelines_on
from walkeeper.errors import Exists, InvalidTimeline, NotFound, NotMember
from walkeeper.ids import NodeId
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import ServerInfo
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.testing.offload import InlineOffload


async def test_a_timeline_that_does_not_exist_is_not_found() -> None:
    async with timelines_on(new_disk()) as timelines:
        with pytest.raises(NotFound):
            timelines.get(TTID)


async def test_what_was_created_and_written_is_there_after_a_crash() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        flushed = (await leader.append()).flush_lsn
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.ttids() == [TTID]
        assert timelines.get(TTID).progress.position.flush_lsn == flushed


async def test_creating_again_returns_what_is_there() -> None:
    async with timelines_on(new_disk()) as timelines:
        first = await timelines.create(TTID, SERVER)
        assert await timelines.create(TTID, SERVER, start_lsn=START, commit_lsn=START) is first


async def test_two_that_create_at_once_get_the_same(autojump_clock: trio.testing.MockClock) -> None:
    async with timelines_on(new_disk(), InlineOffload(lambda: 1.0)) as timelines:
        made = []

        async def create() -> None:
            made.append(await timelines.create(TTID, SERVER))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create)
            nursery.start_soon(create)
        assert made[0] is made[1]


@pytest.mark.parametrize("after_seconds", [0.5, 1.5, 2.5, 3.5])
async def test_whoever_goes_away_while_creating_leaves_nothing_in_the_way(
    autojump_clock: trio.testing.MockClock, after_seconds: float
) -> None:
    """Hazard L2."""
    async with timelines_on(new_disk(), InlineOffload(lambda: 1.0)) as timelines:
        with trio.move_on_after(after_seconds):
            await timelines.create(TTID, SERVER)
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        assert (await leader.append()).flush_lsn > START


async def test_a_timeline_made_by_an_operator_starts_where_he_said() -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER, start_lsn=START, commit_lsn=START)
        assert timeline.progress.position.flush_lsn == START
        assert timeline.progress.position.commit_lsn == START


async def test_what_cannot_be_kept_is_not_created() -> None:
    async with timelines_on(new_disk()) as timelines:
        with pytest.raises(InvalidTimeline):
            await timelines.create(TTID, ServerInfo(0, 0, 0))
        with pytest.raises(InvalidTimeline):
            await timelines.create(TTID, SERVER, start_lsn=Lsn(START + 8), commit_lsn=START)
        assert timelines.ttids() == []


async def test_a_keeper_makes_no_timeline_whose_members_are_others() -> None:
    disk = new_disk()
    others = Configuration(Generation(1), (Member(NodeId(77), "other", 5454),))
    async with timelines_on(disk) as timelines:
        with pytest.raises(NotMember):
            await timelines.create(TTID, SERVER, configuration=others)
        assert timelines.ttids() == []
    assert not disk.names(DATA / "tmp")


async def test_a_control_file_that_cannot_be_read_keeps_its_timeline_shut_and_the_others_open() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        await timelines.create(TTID, SERVER)
    path = DATA / str(TTID.tenant_id) / str(TTID.timeline_id) / CONTROL_FILE
    with disk.open_for_writing(path) as file:
        file.pwritev([b"garbage"], 100)
        damaged = file.pread(file.size(), 0)
    async with timelines_on(disk) as timelines:
        assert timelines.ttids() == []
        assert list(timelines.shut()) == [TTID]
        with pytest.raises(Exists):
            timelines.get(TTID)
        with pytest.raises(Exists):
            await timelines.create(TTID, SERVER)
    with disk.open(path) as file:
        assert file.pread(file.size(), 0) == damaged
