"""Room for WAL: refused while the disk still has some, taken again when there is clearly more."""

from contextlib import AbstractAsyncContextManager

import pytest
import structlog
import trio
from trio.testing import MockClock

from keeping import DATA, SEGMENT, SERVER, START, TTID, Leader, new_disk
from walkeeper.acceptor.administration import BumpTerm
from walkeeper.errors import FileSystemLimit, StorageError, TimelineLimit
from walkeeper.formats.segments import segment_name, segment_number
from walkeeper.ids import FIRST_TLI, NodeId, TenantId, TenantTimelineId
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import Space
from walkeeper.testing.memory_disk import MemoryDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.room import RESERVE_BYTES_MIN, DiskLimits, Room, reserve_of
from walkeeper.timeline.timelines import Timelines, open_timelines

GIB = 1 << 30
TOTAL = 100 * GIB
RESERVE = 2 * GIB
CHECK_SECONDS = 60.0
LIMITS = DiskLimits(0.98, 0, CHECK_SECONDS)


def limited(disk: MemoryDisk, limits: DiskLimits = LIMITS) -> AbstractAsyncContextManager[Timelines]:
    disk.total_bytes = disk.free_bytes = TOTAL
    return open_timelines(claim(disk, DATA, NodeId(3)), InlineOffload(), save_seconds=300.0, limits=limits)


async def led(timelines: Timelines) -> Leader:
    leader = Leader(await timelines.create(TTID, SERVER))
    await leader.be_elected()
    await leader.append()
    return leader


@pytest.mark.parametrize(
    ("total_bytes", "ratio", "reserve_bytes"),
    [
        (TOTAL, 0.98, RESERVE),
        (TOTAL, 1.0, RESERVE_BYTES_MIN),
        (TOTAL, 0.0, 0),
        (16 << 20, 0.98, 2 << 20),
        (0, 0.98, 0),
    ],
)
def test_the_reserve_is_a_share_but_never_most_of_a_small_disk(
    total_bytes: int, ratio: float, reserve_bytes: int
) -> None:
    assert reserve_of(total_bytes, ratio) == pytest.approx(reserve_bytes, abs=1)


async def test_wal_is_refused_below_the_reserve_and_everything_else_is_kept(autojump_clock: MockClock) -> None:
    disk = new_disk()
    async with limited(disk) as timelines:
        leader = await led(timelines)
        kept = leader.timeline.progress.position
        disk.free_bytes = RESERVE - 2
        await trio.sleep(2 * CHECK_SECONDS)
        with pytest.raises(FileSystemLimit):
            await leader.append()
        assert leader.timeline.progress.position == kept
        await leader.timeline.process(BumpTerm())
        with pytest.raises(FileSystemLimit):
            await timelines.create(TenantTimelineId(TenantId(b"o" * 16), TTID.timeline_id), SERVER)


async def test_wal_is_taken_again_when_there_is_clearly_more_than_the_reserve(autojump_clock: MockClock) -> None:
    disk = new_disk()
    async with limited(disk) as timelines:
        leader = await led(timelines)
        run = leader.next_run()
        disk.free_bytes = 0
        await trio.sleep(2 * CHECK_SECONDS)
        for disk.free_bytes in (RESERVE, RESERVE * 5 // 4 - 2):
            await trio.sleep(2.0)
            with pytest.raises(FileSystemLimit):
                await leader.timeline.process(run)
        disk.free_bytes = RESERVE * 5 // 4 + 1
        await trio.sleep(2.0)
        await leader.timeline.process(run)


async def test_the_log_says_so_in_time_and_when_it_comes_to_that() -> None:
    room = Room(LIMITS)

    async def look() -> Space:
        return Space(TOTAL, free_bytes)

    with structlog.testing.capture_logs() as logs:
        for share in (3.0, 1.9, 2.1, 1.9, 0.9, 1.9, 2.3, 1.9):
            free_bytes = int(share * RESERVE)
            await room.look(look)
    assert [line["event"] for line in logs] == [
        "the disk fills up: WAL will be refused",
        "the disk is nearly full: WAL is refused, reads go on",
        "the disk has room again: WAL is taken",
        "the disk fills up: WAL will be refused",
    ]


async def test_a_keeper_that_starts_on_a_full_disk_knows_it_at_once() -> None:
    disk = new_disk()
    opening = limited(disk)
    disk.free_bytes = 0
    async with opening as timelines:
        assert timelines.room.is_refusing


async def test_much_wal_brings_the_next_look_forward(autojump_clock: MockClock) -> None:
    looks = list[float]()
    room = Room(LIMITS)

    async def look() -> Space:
        looks.append(trio.current_time())
        return Space(TOTAL, RESERVE + 1000)

    await room.look(look)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.watch, look)
        await trio.sleep(1.0)
        room.admit(100, 0)
        await trio.sleep(1.0)
        assert len(looks) == 1
        for _ in range(1000):
            room.admit(500, 0)
        await trio.sleep(1.0)
        assert len(looks) == 2
        nursery.cancel_scope.cancel()


async def test_a_look_that_fails_changes_nothing() -> None:
    disk = new_disk()
    room = Room(LIMITS)

    async def look() -> Space:
        return disk.space(DATA / "nowhere")

    await room.look(look)
    assert not room.is_refusing
    assert room.free_bytes is None


async def test_a_timeline_takes_no_more_than_its_limit_and_goes_on_when_segments_are_removed(
    autojump_clock: MockClock,
) -> None:
    disk = new_disk()
    async with limited(disk, DiskLimits(0.98, 2 * SEGMENT, CHECK_SECONDS)) as timelines:
        leader = await led(timelines)
        while leader.wal.lsn < (START // SEGMENT + 1) * SEGMENT + SEGMENT // 2:
            await leader.append(SEGMENT // 4)
        assert leader.timeline.statistics().disk_usage_bytes == 2 * SEGMENT
        run = leader.next_run(SEGMENT)
        with pytest.raises(TimelineLimit):
            await leader.timeline.process(run)
        assert leader.timeline.statistics().is_over_limit
        directory = DATA / str(TTID.tenant_id) / str(TTID.timeline_id)
        disk.unlink(directory / segment_name(FIRST_TLI, segment_number(START, SEGMENT), SEGMENT))
        await trio.sleep(3.0)
        assert not leader.timeline.statistics().is_over_limit
        await leader.timeline.process(run)


async def test_a_disk_that_cannot_be_looked_at_is_told_once_and_not_asked_more_often(
    autojump_clock: MockClock,
) -> None:
    room, looks = Room(LIMITS), list[float]()

    async def look() -> Space:
        looks.append(trio.current_time())
        raise StorageError("statvfs")

    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.watch, look)
            for _ in range(100):
                room.admit(GIB, 0)
                await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
    assert len(looks) <= 100 / CHECK_SECONDS + 1
    assert len(logs) == 1
