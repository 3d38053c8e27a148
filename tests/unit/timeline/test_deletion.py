"""A timeline that is deleted: everybody leaves, everything is given back, and it does not come back."""

import os
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
import trio
import trio.testing

from keeping import DATA, SAVE_SECONDS, SERVER, TTID, Leader, new_disk, timelines_on
from walkeeper.errors import (
    Blown,
    Closing,
    Deleted,
    DurabilityLost,
    Exists,
    NotFound,
    NotMadeAgain,
    StaleExclusion,
    StillMember,
    StorageError,
    TooFewFiles,
)
from walkeeper.ids import NodeId, TenantId, TenantTimelineId, TimelineId
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.storage.data_directory import claim
from walkeeper.storage.disk import OsDisk
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timelines import Timelines, open_timelines

OTHER = TenantTimelineId(TTID.tenant_id, TimelineId(b"o" * 16))
STRANGER = TenantTimelineId(TenantId(b"s" * 16), TTID.timeline_id)
DIRECTORY = DATA / str(TTID.tenant_id) / str(TTID.timeline_id)


def configuration(generation: int, node: int) -> Configuration:
    return Configuration(Generation(generation), (Member(NodeId(node), "host", 5454),))


async def led(timelines: Timelines, ttid: TenantTimelineId = TTID) -> Leader:
    leader = Leader(await timelines.create(ttid, SERVER))
    await leader.be_elected()
    await leader.append()
    return leader


async def test_what_is_deleted_is_gone_and_is_not_made_again() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        leader = await led(timelines)
        assert await timelines.delete(TTID)
        assert (timelines.ttids(), timelines.all()) == ([], [])
        with pytest.raises(Deleted):
            timelines.get(TTID)
        with pytest.raises(NotMadeAgain):
            await timelines.create(TTID, SERVER)
        with pytest.raises(Closing):
            await leader.append()
        assert not await timelines.delete(TTID)
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.ttids() == []


async def test_a_timeline_that_never_existed_can_be_deleted_and_is_not_made_then() -> None:
    async with timelines_on(new_disk()) as timelines:
        assert not await timelines.delete(TTID)
        with pytest.raises(NotMadeAgain):
            await timelines.create(TTID, SERVER, configuration=configuration(9, 3), revives=True)
        await timelines.create(OTHER, SERVER)


async def test_after_a_day_and_after_a_start_it_may_be_made_again_and_is_not_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        for _ in range(2):
            await led(timelines)
            assert await timelines.delete(TTID)
            await trio.sleep(25 * 3600)
        await timelines.create(TTID, SERVER)
        await timelines.delete(TTID)
    async with timelines_on(disk) as timelines:
        with pytest.raises(NotFound):
            timelines.get(TTID)
        assert not (await timelines.create(TTID, SERVER)).require_state().is_whole


# -- everybody leaves -----------------------------------------------------------------------------------------


async def test_nobody_touches_the_files_once_their_removal_has_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 42: readers, visitors and whoever waits for the lock have left before."""
    disk = new_disk()
    async with timelines_on(disk, InlineOffload(lambda: 1.0)) as timelines:
        leader = await led(timelines)
        timeline, users = leader.timeline, 0
        removed_among: list[int] = []

        async def read() -> None:
            nonlocal users
            with timeline.registry.sending(Client(1)):
                users += 1
                try:
                    while not timeline.is_closing:
                        (await timeline.open_segment(leader.wal.start)).close()
                finally:
                    users -= 1

        async def write() -> None:
            with timeline.registry.receiving(Client(2), lambda _feedback: None):
                while True:
                    await leader.append()
                    await trio.lowlevel.checkpoint()

        async def visit() -> None:
            nonlocal users
            with timeline.registry.visiting():
                users += 1
                await trio.sleep(5)
                users -= 1

        def watch(operation: str, path: Path) -> None:
            if operation == "rename" and path == DIRECTORY:
                removed_among.append(users)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(10.5)
            nursery.start_soon(read)
            nursery.start_soon(visit)
            await trio.sleep(0.2)
            assert users == 2
            disk.on_operation = watch
            assert await timelines.delete(TTID)
        assert removed_among == [0]
        assert (timeline.registry.senders(), timeline.registry.receivers()) == ((), ())


async def test_descriptors_are_given_back(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with closing(claim(OsDisk(sync=False), tmp_path, NodeId(3))) as directory:
        async with open_timelines(directory, InlineOffload(), save_seconds=SAVE_SECONDS) as timelines:
            await led(timelines, OTHER)
            await timelines.delete(OTHER)  # from here on what storage holds back is there
            before = open_files()
            await led(timelines)
            assert open_files() > before
            await timelines.delete(TTID)
            assert open_files() == before
    assert os.listdir(tmp_path / "tmp") == []


# -- what cannot be read, and disks that fail -----------------------------------------------------------------


async def test_what_cannot_be_read_can_be_deleted_but_not_excluded() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        await timelines.create(TTID, SERVER)
    with disk.open_for_writing(DIRECTORY / CONTROL_FILE) as file:
        file.pwritev([b"garbage"], 100)
    async with timelines_on(disk) as timelines:
        assert list(timelines.shut()) == [TTID]
        with pytest.raises(Exists):
            await timelines.delete(TTID, excluding=configuration(1, 77))
        assert await timelines.delete(TTID)
        assert not timelines.shut()
        with pytest.raises(Deleted):
            timelines.get(TTID)


async def test_a_timeline_whose_fuse_has_blown_can_be_deleted(autojump_clock: trio.testing.MockClock) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        leader = await led(timelines)
        disk.faults = {disk.operations + step: Fault.IO_ERROR for step in range(3)}
        with pytest.raises(StorageError):
            await leader.append(size=SERVER.wal_seg_size)
        assert leader.timeline.is_blown
        with pytest.raises(Blown):
            await timelines.delete(TTID, excluding=configuration(1, 77))
        disk.faults = {}
        assert await timelines.delete(TTID)
        await trio.sleep(100)
        assert timelines.all() == []
    assert not disk.is_directory(DIRECTORY)


async def fail_to_delete(disk: MemoryDisk, fault: Fault, step: int) -> str:
    """How a deletion ends whose disk fails once; then it is tried again, or the process ends."""
    try:
        async with timelines_on(disk) as timelines:
            leader = await led(timelines)
            disk.faults = {disk.operations + step: fault}
            error = None
            try:
                await timelines.delete(TTID)
            except StorageError as failure:
                error = failure
            disk.faults = {}
            if error is None:
                return "done"
            if isinstance(error, DurabilityLost):
                await trio.sleep_forever()
            await check_serves_nobody(timelines, leader)
            await trio.sleep(100)
            await timelines.delete(TTID)
            assert timelines.all() == []
            assert not disk.is_directory(DIRECTORY)
            return "again"
    except* DurabilityLost:
        disk.end_process()
    return "lost"


async def check_serves_nobody(timelines: Timelines, leader: Leader) -> None:
    """A timeline whose deletion has begun and failed."""
    assert timelines.ttids() == []
    with pytest.raises(Closing):
        timelines.get(TTID)
    with pytest.raises(Closing):
        await timelines.create(TTID, SERVER)
    with pytest.raises(Closing):
        await leader.append()


@pytest.mark.parametrize("fault", [Fault.IO_ERROR, Fault.NO_SPACE])
async def test_a_deletion_that_fails_can_be_tried_again_and_serves_nobody_until_then(
    autojump_clock: trio.testing.MockClock, fault: Fault
) -> None:
    ends = set()
    for step in count():
        disk = new_disk()
        end = await fail_to_delete(disk, fault, step)
        ends.add(end)
        disk.crash(0)
        async with timelines_on(disk) as timelines:
            assert not timelines.shut()
            assert end == "lost" or timelines.ttids() == []
        if end == "done":
            break
    assert ends == {"again", "lost", "done"}


async def test_without_descriptors_nothing_of_it_is_removed_and_it_is_tried_again() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        await led(timelines)
        disk.is_out_of_files = True
        path = DIRECTORY / CONTROL_FILE
        with disk.open_for_writing(path), disk.open_for_writing(path), pytest.raises(TooFewFiles):
            await timelines.delete(TTID)
        assert CONTROL_FILE in disk.names(DIRECTORY)
        disk.is_out_of_files = False
        assert await timelines.delete(TTID)


# -- exclusion ------------------------------------------------------------------------------------------------


async def test_a_keeper_that_is_no_member_any_more_deletes_its_timeline_until_it_is_one_again() -> None:
    async with timelines_on(new_disk()) as timelines:
        await timelines.create(TTID, SERVER, configuration=configuration(4, 3))
        with pytest.raises(StillMember):
            await timelines.delete(TTID, excluding=configuration(5, 3))
        with pytest.raises(StaleExclusion):
            await timelines.delete(TTID, excluding=configuration(3, 77))
        timelines.get(TTID).require_state()
        assert await timelines.delete(TTID, excluding=configuration(5, 77))
        assert not await timelines.delete(TTID, excluding=configuration(5, 77))
        assert not await timelines.delete(TTID, excluding=configuration(6, 77))
        with pytest.raises(NotMadeAgain):
            await timelines.create(TTID, SERVER, configuration=configuration(6, 3), revives=True)
        with pytest.raises(NotMadeAgain):  # a writer never brings it back
            await timelines.create(TTID, SERVER, configuration=configuration(7, 3))
        await timelines.create(TTID, SERVER, configuration=configuration(7, 3), revives=True)
        assert timelines.ttids() == [TTID]
        assert await timelines.delete(TTID, excluding=configuration(8, 77))
        assert not await timelines.delete(TTID)  # and now for good
        with pytest.raises(NotMadeAgain):
            await timelines.create(TTID, SERVER, configuration=configuration(9, 3), revives=True)


# -- tenants --------------------------------------------------------------------------------------------------


async def test_a_tenant_is_deleted_with_all_its_timelines_and_no_other() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        for ttid in (TTID, OTHER, STRANGER):
            await led(timelines, ttid)
        deleted = await timelines.delete_tenant(TTID.tenant_id)
        assert deleted == {TTID.timeline_id: True, OTHER.timeline_id: True}
        assert timelines.ttids() == [STRANGER]
        assert not disk.is_directory(DIRECTORY.parent)
        assert await timelines.delete_tenant(TTID.tenant_id) == {}
        new = TenantTimelineId(TTID.tenant_id, TimelineId(b"n" * 16))
        with pytest.raises(NotMadeAgain):
            await timelines.create(new, SERVER, configuration=configuration(9, 3), revives=True)
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.ttids() == [STRANGER]


async def test_of_a_tenant_everything_is_tried_before_a_failure_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()

    def fail_first(operation: str, path: Path) -> None:
        if operation == "rename" and path == DIRECTORY:
            disk.faults = {disk.operations - 1: Fault.IO_ERROR}

    async with timelines_on(disk) as timelines:
        await led(timelines)
        await led(timelines, OTHER)
        disk.on_operation = fail_first
        with pytest.raises(StorageError):
            await timelines.delete_tenant(TTID.tenant_id)
        assert [timeline.ttid for timeline in timelines.all()] == [TTID]
        disk.on_operation, disk.faults = lambda _operation, _path: None, {}
        assert await timelines.delete_tenant(TTID.tenant_id) == {TTID.timeline_id: True}
        assert not disk.is_directory(DIRECTORY.parent)
