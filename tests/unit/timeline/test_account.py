"""What a timeline has done: each stage at most what the one before has."""

import time
from dataclasses import replace

import pytest
import trio.testing

from keeping import SEGMENT, SERVER, START, TTID, Leader, new_disk, timelines_on
from walkeeper.errors import StorageError
from walkeeper.lsn import Lsn
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import Fault
from walkeeper.timeline.timeline import Timeline


def stages(timeline: Timeline) -> tuple[int, int]:
    return timeline.account.flushed_bytes, timeline.account.committed_bytes


async def test_what_is_flushed_and_what_is_committed_of_it_is_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = time.time()
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        assert stages(timeline) == (0, 0)
        first = (await leader.append()).flush_lsn
        moments = [timeline.account.committed_at]
        await leader.append(commit=first)
        moments.append(timeline.account.committed_at)
        assert stages(timeline) == (leader.wal.lsn - START, first - START)
        before, after = moments
        assert before is None
        assert after is not None and began <= after <= time.time()


async def test_what_was_here_before_the_start_is_not_counted_when_it_is_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        old = Leader(await timelines.create(TTID, SERVER))
        await old.be_elected()
        await old.append()
    async with timelines_on(disk) as timelines:
        timeline = timelines.get(TTID)
        leader = Leader(timeline, term=2, start=old.wal.lsn)
        await leader.be_elected(TermHistory.of((Term(1), START), (Term(2), old.wal.lsn)))
        written = (await leader.append()).flush_lsn - old.wal.lsn
        await leader.append(commit=Lsn(old.wal.lsn + written))
        assert stages(timeline) == (leader.wal.lsn - old.wal.lsn, written)


async def test_what_a_new_leader_has_truncated_is_flushed_again_and_committed_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        old = Leader(timeline)
        await old.be_elected()
        await old.append(3000)
        leader = Leader(timeline, term=2)
        await leader.be_elected(TermHistory.of((Term(2), START)))
        first = (await leader.append()).flush_lsn
        await leader.append(commit=first)
        assert stages(timeline) == (old.wal.lsn - START + leader.wal.lsn - START, first - START)


async def test_what_was_flushed_before_a_fuse_blew_counts_when_it_is_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        old = Leader(timeline)
        await old.be_elected()
        end = (await old.append()).flush_lsn
        disk.faults[disk.operations] = Fault.IO_ERROR
        with pytest.raises(StorageError):
            await old.append()
        await trio.sleep(10)
        leader = Leader(timeline, term=2, start=end)
        await leader.be_elected(TermHistory.of((Term(1), START), (Term(2), end)))
        end = (await leader.append()).flush_lsn
        await leader.append(commit=end)
        assert timeline.account.committed_bytes == end - START


async def test_a_fuse_that_blows_is_counted_once_however_often_the_disk_is_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        disk.faults.update({disk.operations + number: Fault.NO_SPACE for number in range(40)})
        try:
            await leader.append(2 * SEGMENT)
        except StorageError:
            await trio.sleep(1)
        assert timeline.account.fuses_blown == 1


async def test_wal_waits_from_when_it_came_or_something_was_committed_last_until_all_of_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        moments = [timeline.account.waits_since]
        first = (await leader.append()).flush_lsn
        moments.append(timeline.account.waits_since)
        await leader.append()
        moments.append(timeline.account.waits_since)
        last = (await leader.append(commit=first)).flush_lsn
        moments += [timeline.account.waits_since, timeline.account.committed_at]
        await timeline.process(
            replace(leader.next_run(), begin_lsn=last, end_lsn=last, commit_lsn=last, slices=())
        )
        moments.append(timeline.account.waits_since)
        none, since, still, moved, committed, caught_up = moments
        assert none is caught_up is None
        assert since is not None and moved is not None
        assert (still, committed) == (since, moved)
        assert since <= moved


async def test_wal_that_a_new_leader_writes_does_not_wait_since_what_it_has_truncated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        old = Leader(timeline)
        await old.be_elected()
        await old.append()
        timeline.account.waits_since = 1.0
        leader = Leader(timeline, term=2)
        await leader.be_elected(TermHistory.of((Term(2), START)))
        moments: list[float | None] = [timeline.account.waits_since]
        await leader.append()
        moments.append(timeline.account.waits_since)
        none, since = moments
        assert none is None
        assert since is not None and since > 1.0
