"""The narrow place: nothing is begun without being finished, and nothing unfinished is believed."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from keeping import DATA, SAVE_SECONDS, SEGMENT, SERVER, START, TTID, Leader, new_disk, timelines_on
from walkeeper.acceptor.administration import AdminRequest, Checkpoint
from walkeeper.errors import (
    Blown,
    Closing,
    DiskFull,
    DurabilityLost,
    NotElected,
    OutOfFiles,
    StorageError,
    TooFewFiles,
)
from walkeeper.ids import TenantId, TenantTimelineId, TimelineId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_GENERATION
from walkeeper.messages import (
    AppendResponse,
    Batch,
    PageserverFeedback,
    ProposerElected,
    VoteRequest,
    VoteResponse,
)
from walkeeper.storage.disk import FILES_HELD_BACK, FILES_PER_JOB
from walkeeper.storage.offload import THREADS, Brief
from walkeeper.storage.recovery import CONTROL_FILE
from walkeeper.storage.spare import SPARE, SPARE_BEING_MADE
from walkeeper.storage.store import SMALL_WRITE_BYTES_MAX
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import Fault, MemoryDisk, unwatched
from walkeeper.testing.offload import InlineOffload
from walkeeper.timeline.progress import Position
from walkeeper.timeline.registry import Client
from walkeeper.timeline.timeline import SPARE_PAUSE_SECONDS, Timeline
from walkeeper.timeline.upkeep import UPKEEP_PAUSE_SECONDS

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

OTHER_TTID = TenantTimelineId(TenantId(b"t" * 16), TimelineId(b"o" * 16))
SLOW = 5.0  # seconds of the fake clock before and after each disk operation


def fail_soon(disk: MemoryDisk, fault: Fault, *, within: int = 40) -> None:
    """Let every one of the next operations of the disk fail."""
    disk.faults.update({disk.operations + number: fault for number in range(within)})


async def test_a_reply_comes_after_the_disk(autojump_clock: trio.testing.MockClock) -> None:
    async with timelines_on(new_disk(), InlineOffload(lambda: SLOW)) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        began = trio.current_time()
        reply = await timeline.process(VoteRequest(NO_GENERATION, Term(1)))
        assert isinstance(reply, VoteResponse)
        assert trio.current_time() - began == 2 * SLOW


async def test_a_cancelled_operation_is_finished_in_memory_and_on_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Hazard C2: memory follows the disk, whoever was cancelled (invariants 33 and 41)."""
    disk = new_disk()
    async with timelines_on(disk, InlineOffload(lambda: SLOW)) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        with trio.move_on_after(SLOW / 2) as scope:
            await timeline.process(VoteRequest(NO_GENERATION, Term(7)))
        assert scope.cancel_called
        assert timeline.progress.position.term == 7
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.get(TTID).progress.position.term == 7


async def test_an_operation_that_waits_for_its_turn_can_be_cancelled_and_has_not_happened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timelines_on(new_disk(), InlineOffload(lambda: SLOW)) as timelines, trio.open_nursery() as nursery:
        timeline = await timelines.create(TTID, SERVER)
        nursery.start_soon(timeline.process, VoteRequest(NO_GENERATION, Term(1)))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(SLOW / 2) as scope:
            await timeline.process(VoteRequest(NO_GENERATION, Term(2)))
        assert scope.cancelled_caught
        await trio.sleep(3 * SLOW)
        assert timeline.progress.position.term == 1


async def test_operations_of_one_timeline_never_overlap(autojump_clock: trio.testing.MockClock) -> None:
    """Hazard C3, invariant 41: one temporary name, one writer."""
    running = 0

    class Counting(InlineOffload):
        async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
            nonlocal running
            running += 1
            assert running == 1
            try:
                return await super().__call__(function, *args)
            finally:
                running -= 1

    async with timelines_on(new_disk(), Counting(lambda: SLOW)) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        async with trio.open_nursery() as nursery:
            for term in range(1, 6):
                nursery.start_soon(timeline.process, VoteRequest(NO_GENERATION, Term(term)))
    assert timeline.progress.position.term == 5


async def test_a_commit_is_a_brief_job_and_an_election_is_none() -> None:
    jobs: list[bool] = []

    class Noting(InlineOffload):
        async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
            jobs.append(isinstance(function, Brief))
            return await super().__call__(function, *args)

    async with timelines_on(new_disk(), Noting()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        assert not any(jobs)
        jobs.clear()
        await leader.append()
        await leader.append()
        assert jobs == [True, True]
        await timeline.process(VoteRequest(NO_GENERATION, Term(2)))
        assert jobs == [True, True, False]


async def test_what_is_published_can_be_waited_for() -> None:
    async with timelines_on(new_disk()) as timelines, trio.open_nursery() as nursery:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        seen: list[Position] = []

        async def watch() -> None:
            seen.append(await timeline.progress.wait_until(lambda position: position.flush_lsn > START))

        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert not seen
        reply = await leader.append()
        await trio.testing.wait_all_tasks_blocked()
        assert [position.flush_lsn for position in seen] == [reply.flush_lsn]


async def test_readers_lose_sight_of_wal_before_the_disk_does(autojump_clock: trio.testing.MockClock) -> None:
    """Hazard T1: positions first."""
    delay = 0.0
    async with timelines_on(new_disk(), InlineOffload(lambda: delay)) as timelines, trio.open_nursery() as nursery:
        timeline = await timelines.create(TTID, SERVER)
        old = Leader(timeline)
        await old.be_elected()
        first = (await old.append()).flush_lsn
        await old.append()
        delay, before = SLOW, timeline.progress.truncations
        new = Leader(timeline, 2, first)
        nursery.start_soon(new.be_elected, TermHistory.of((1, START), (2, first)))
        await trio.sleep(2 * SLOW + 1)  # the vote is kept, the truncation has begun, the disk is untouched
        assert timeline.progress.position.flush_lsn == first
        assert timeline.progress.truncations == before + 1


async def test_a_refusal_leaves_the_timeline_as_it_was() -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        stranger = Leader(timeline, term=9)
        with pytest.raises(NotElected):
            await stranger.append()
        assert not is_shut(timeline)
        assert (await leader.append()).flush_lsn > START


async def test_a_full_disk_refuses_and_the_timeline_goes_on_by_itself() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        await leader.append()
        run = leader.next_run()
        disk.faults[disk.operations] = Fault.NO_SPACE
        with pytest.raises(DiskFull):
            await timeline.process(run)
        assert not is_shut(timeline)
        reply = await timeline.process(run)
        assert isinstance(reply, AppendResponse)
        assert reply.flush_lsn == run.end_lsn


async def test_without_descriptors_commits_go_on_and_what_needs_one_is_refused_until_there_are_some(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        await leader.append()
        disk.is_out_of_files = True
        for number in range(1, FILES_HELD_BACK):  # what is open for a moment is held back again
            assert (await leader.append()).flush_lsn == leader.wal.lsn
            await timeline.process(Checkpoint(Lsn(START + number)))
        run = leader.next_run(SERVER.wal_seg_size)
        with disk.open_for_writing(DATA / str(TTID.tenant_id) / str(TTID.timeline_id) / CONTROL_FILE):
            for request in (run, VoteRequest(NO_GENERATION, Term(2))):
                with pytest.raises(TooFewFiles):
                    await timeline.process(request)
            with pytest.raises(TooFewFiles):
                await timelines.create(OTHER_TTID, SERVER)
            assert not is_shut(timeline)
        reply = await timeline.process(run)
        assert isinstance(reply, AppendResponse)
        assert reply.flush_lsn == run.end_lsn
        assert timelines.get(TTID).progress.position.term == 1
        disk.is_out_of_files = False
        await timelines.create(OTHER_TTID, SERVER)


async def test_no_operation_wants_more_descriptors_than_are_held_back_for_a_job(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what is held back is enough for as many as there are threads."""
    assert THREADS * FILES_PER_JOB <= FILES_HELD_BACK
    monkeypatch.setattr("walkeeper.testing.memory_disk.FILES_HELD_BACK", FILES_PER_JOB)
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        old = Leader(timeline)
        history = TermHistory.of((1, START), (2, Lsn(START + 1000)))

        async def without_descriptors(request: Batch | AdminRequest) -> None:
            disk.is_out_of_files = False
            disk.require_files()
            disk.is_out_of_files = True
            await timeline.process(request)

        await without_descriptors(VoteRequest(NO_GENERATION, Term(1)))
        await without_descriptors(ProposerElected(NO_GENERATION, Term(1), START, TermHistory.of((1, START))))
        for size in (500, 4 * SEGMENT, 500):
            await without_descriptors(old.next_run(size))
        await without_descriptors(VoteRequest(NO_GENERATION, Term(2)))
        await without_descriptors(ProposerElected(NO_GENERATION, Term(2), Lsn(START + 1000), history))
        assert timeline.progress.position.last_log_term == 2


async def test_a_truncation_that_is_not_begun_leaves_readers_what_they_had() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        await leader.append()
        await timeline.process(VoteRequest(NO_GENERATION, Term(2)))
        before = timeline.progress.position
        elected = ProposerElected(NO_GENERATION, Term(2), START, TermHistory.of((2, START)))
        disk.is_out_of_files = True
        with disk.open_for_writing(DATA / str(TTID.tenant_id) / str(TTID.timeline_id) / CONTROL_FILE):
            with pytest.raises(TooFewFiles):
                await timeline.process(elected)
        assert timeline.progress.position == before
        await timeline.process(elected)
        assert timeline.progress.position.flush_lsn == START


async def test_without_descriptors_no_crowd_of_elections_blows_a_fuse(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All of them ask at once, and each that is elected keeps its segment open."""
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        crowd = [
            Leader(await timelines.create(TenantTimelineId(TTID.tenant_id, TimelineId(bytes([n]) * 16)), SERVER))
            for n in range(FILES_HELD_BACK + 1)
        ]
        refused: list[Leader] = []

        async def campaign(leader: Leader) -> None:
            try:
                await leader.be_elected()
            except OutOfFiles:
                refused.append(leader)

        for is_out_of_files in (True, False):
            disk.is_out_of_files = is_out_of_files
            async with trio.open_nursery() as nursery:
                for leader in crowd:
                    nursery.start_soon(campaign, leader)
            assert not [leader for leader in crowd if is_shut(leader.timeline)]
            crowd = refused.copy() if is_out_of_files else crowd
        assert len(refused) == len(crowd) > 0


@pytest.mark.parametrize("size", [500, SMALL_WRITE_BYTES_MAX, 10 * SMALL_WRITE_BYTES_MAX])
async def test_a_commit_into_the_open_segment_needs_no_descriptor_however_large_it_is(size: int) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        await leader.append()
        disk.is_out_of_files = True
        with disk.open_for_writing(
            DATA / str(TTID.tenant_id) / str(TTID.timeline_id) / CONTROL_FILE
        ):  # what is held back is one short
            with pytest.raises(TooFewFiles):
                await leader.timeline.process(VoteRequest(NO_GENERATION, Term(2)))
            assert (await leader.append(size)).flush_lsn == leader.wal.lsn


async def test_a_timeline_that_is_shut_and_finds_no_descriptors_is_open_soon_after_there_are_some(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        disk.faults[disk.operations] = Fault.IO_ERROR
        with pytest.raises(StorageError):
            await timeline.process(VoteRequest(NO_GENERATION, Term(1)))
        disk.is_out_of_files = True
        await trio.sleep(3600)
        assert is_shut(timeline)
        disk.is_out_of_files = False
        await trio.sleep(UPKEEP_PAUSE_SECONDS)
        assert not is_shut(timeline)


async def test_an_error_in_mid_write_blows_the_fuse_and_upkeep_reads_the_timeline_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Hazards W1 and 2.9: nothing is believed before it has been read again, and then it serves on."""
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        kept = (await leader.append()).flush_lsn
        disk.faults[disk.operations] = Fault.IO_ERROR
        with pytest.raises(StorageError):
            await timeline.process(leader.next_run())
        assert is_shut(timeline)
        assert timeline.progress.position.flush_lsn == INVALID_LSN
        with pytest.raises(Blown):
            await timeline.process(VoteRequest(NO_GENERATION, Term(5)))
        await trio.sleep(60)
        assert not is_shut(timeline)
        reply = await timeline.process(VoteRequest(NO_GENERATION, Term(5)))
        assert isinstance(reply, VoteResponse)
        assert reply.flush_lsn >= kept


async def test_an_append_that_fails_between_two_segments_has_not_happened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Hazard W3: its first part fills a segment, and neither position nor scanner have seen any of it."""
    disk, second = new_disk(), "000000010000000000000004.partial"

    def fail_in_the_second(operation: str, path: Path) -> None:
        if (operation, path.name) == ("write", second):
            disk.faults = {disk.operations - 1: Fault.IO_ERROR}
            disk.on_operation = unwatched

    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        kept = (await leader.append(SEGMENT - START % SEGMENT - 6000)).flush_lsn
        run = leader.next_run(9000)
        disk.on_operation = fail_in_the_second
        with pytest.raises(StorageError):
            await timeline.process(run)
        await trio.sleep(60)
        assert timeline.progress.position.flush_lsn == kept
        history = TermHistory.of((leader.term, START))
        await timeline.process(ProposerElected(NO_GENERATION, leader.term, kept, history))
        reply = await timeline.process(run)
        assert isinstance(reply, AppendResponse)
        assert reply.flush_lsn == run.end_lsn
        disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.get(TTID).progress.position.flush_lsn == run.end_lsn


async def test_a_vote_that_nobody_heard_is_not_given_again(autojump_clock: trio.testing.MockClock) -> None:
    """Hazard C4: it is on disk, and whoever asked has gone; somebody else gets the next one (invariant 2)."""
    async with timelines_on(new_disk(), InlineOffload(lambda: SLOW)) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        with trio.move_on_after(SLOW / 2):
            await timeline.process(VoteRequest(NO_GENERATION, Term(7)))
        given = []
        for term in (7, 8):
            reply = await timeline.process(VoteRequest(NO_GENERATION, Term(term)))
            assert isinstance(reply, VoteResponse)
            given.append(reply.vote_given)
        assert given == [False, True]


async def test_a_disk_that_stays_broken_keeps_the_timeline_shut_until_it_is_mended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        run = leader.next_run()

        class Broken(dict[int, Fault]):
            def get(self, number: int, default: object = None) -> Fault:
                return Fault.IO_ERROR

        disk.faults = Broken()
        with pytest.raises(StorageError):
            await timeline.process(run)
        await trio.sleep(3600)
        assert is_shut(timeline)
        disk.faults = {}
        await trio.sleep(60)
        assert not is_shut(timeline)


async def test_a_failed_fsync_ends_the_process(autojump_clock: trio.testing.MockClock) -> None:
    """Hazard W10, invariant 29."""
    disk = new_disk()
    with pytest.RaisesGroup(DurabilityLost, flatten_subgroups=True):
        async with timelines_on(disk) as timelines:
            timeline = await timelines.create(TTID, SERVER)
            leader = Leader(timeline)
            await leader.be_elected()
            fail_syncs(disk)
            with pytest.raises(DurabilityLost):
                await leader.append()
            assert timeline.durability_lost is not None
            await trio.sleep_forever()


async def test_a_failed_fsync_in_a_creation_ends_the_process_whoever_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    with pytest.RaisesGroup(DurabilityLost, flatten_subgroups=True):
        async with timelines_on(disk) as timelines:
            fail_syncs(disk)
            with pytest.raises(DurabilityLost):
                await timelines.create(TTID, SERVER)
            await trio.sleep_forever()


async def test_a_failed_fsync_of_a_spare_ends_the_process(autojump_clock: trio.testing.MockClock) -> None:
    disk = new_disk()
    with pytest.RaisesGroup(DurabilityLost, flatten_subgroups=True):
        async with timelines_on(disk) as timelines:
            timeline = await timelines.create(TTID, SERVER)
            leader = Leader(timeline)
            await leader.be_elected()
            await leader.append(700_000)
            fail_syncs(disk)
            await trio.sleep_forever()


async def test_a_spare_that_cannot_be_made_does_not_keep_the_control_file_from_being_saved(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()

    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        flushed = (await leader.append(700_000)).flush_lsn
        disk.on_operation = lambda operation, path: fail_next(disk, "spare" in path.name)
        await leader.append(commit=flushed)
        await trio.sleep(1000)
        disk.on_operation = lambda operation, path: None
        assert kept_commit(timeline) == flushed


async def test_after_a_spare_filled_the_disk_commits_have_it_to_themselves_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    tried_at: list[float] = []

    def refuse_first_spare(operation: str, path: Path) -> None:
        is_spare = (operation, path.name) == ("create", SPARE_BEING_MADE)
        disk.faults = {disk.operations - 1: Fault.NO_SPACE} if is_spare and not tried_at else {}
        if is_spare:
            tried_at.append(trio.current_time())

    async with timelines_on(disk) as timelines:
        leader = Leader(await timelines.create(TTID, SERVER))
        await leader.be_elected()
        disk.on_operation = refuse_first_spare
        await leader.append(700_000)
        await trio.sleep(1)
        for _ in range(50):  # into the second half of the next segment, too
            assert (await leader.append(20_000)).flush_lsn == leader.wal.lsn
            await trio.sleep((SPARE_PAUSE_SECONDS - 2) / 50)
        (first,) = tried_at
        await trio.sleep(2)
        await leader.append()
        await trio.sleep(1)
        assert 0 < tried_at[1] - first - SPARE_PAUSE_SECONDS < 2
        assert SPARE in disk.names(DATA / str(TTID.tenant_id) / str(TTID.timeline_id))


async def test_a_disk_that_is_full_does_not_keep_a_keeper_from_closing() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        flushed = (await leader.append()).flush_lsn
        await leader.append(commit=flushed)
        fail_soon(disk, Fault.NO_SPACE, within=3)
    with pytest.raises(Closing):
        await leader.append()


async def test_what_interrupts_an_operation_for_no_known_reason_blows_the_fuse() -> None:
    class Interrupted(InlineOffload):
        def __init__(self) -> None:
            super().__init__()
            self.is_armed = False

        async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
            if self.is_armed:
                self.is_armed = False
                raise KeyboardInterrupt
            return await super().__call__(function, *args)

    offload = Interrupted()
    async with timelines_on(new_disk(), offload) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        offload.is_armed = True
        with pytest.raises(KeyboardInterrupt):
            await timeline.process(VoteRequest(NO_GENERATION, Term(1)))
        assert is_shut(timeline)


async def test_a_closed_timeline_refuses_and_has_saved_its_control_file() -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        flushed = (await leader.append()).flush_lsn
        await leader.append(commit=flushed)
        with timeline.registry.receiving(Client(1), lambda _feedback: None) as receiver:
            await timeline.close()
            assert receiver.scope.cancel_called
        with pytest.raises(Closing):
            await leader.append()
    disk.crash(0)
    async with timelines_on(disk) as timelines:
        state = timelines.get(TTID).statistics().state
        assert state is not None
        assert state.kept.commit_lsn == flushed


async def test_a_control_file_that_lags_is_saved_in_time_and_only_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        flushed = (await leader.append()).flush_lsn
        await leader.append(commit=flushed)
        assert kept_commit(timeline) == START
        await trio.sleep(301)
        assert kept_commit(timeline) == flushed
        operations = disk.operations
        await trio.sleep(3000)
        assert disk.operations == operations


async def test_what_pageservers_no_longer_need_is_saved(autojump_clock: trio.testing.MockClock) -> None:
    disk = new_disk()
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        with timeline.registry.sending(Client(1)) as sender:
            timeline.registry.record(sender, PageserverFeedback(remote_consistent_lsn=START))
        await trio.sleep(SAVE_SECONDS + 1)
        state = timeline.require_state()
        assert (state.kept.remote_consistent_lsn, state.ahead.remote_consistent_lsn) == (START, START)
    disk.crash(0)
    async with timelines_on(disk) as timelines:
        assert timelines.get(TTID).require_state().kept.remote_consistent_lsn == START


async def test_a_control_file_that_lags_a_whole_segment_is_saved_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with timelines_on(new_disk()) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        for _ in range(20):
            flushed = (await leader.append(100_000)).flush_lsn
        await leader.append(commit=flushed)
        await trio.sleep(1)
        assert kept_commit(timeline) == flushed


async def test_a_control_file_that_cannot_be_saved_is_not_tried_with_every_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = new_disk()
    tried_at: list[float] = []

    def refuse_control_file(operation: str, path: Path) -> None:
        is_control_file = operation == "create" and path.name.startswith(CONTROL_FILE)
        disk.faults = {disk.operations - 1: Fault.NO_SPACE} if is_control_file else {}
        if is_control_file:
            tried_at.append(trio.current_time())

    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        for _ in range(20):
            flushed = (await leader.append(100_000)).flush_lsn
        disk.on_operation = refuse_control_file
        for _ in range(500):  # five seconds of commits, each of which would like it to be saved
            await leader.append(commit=flushed)
            await trio.sleep(0.01)
        assert 2 <= len(tried_at) <= 6
        disk.on_operation = unwatched
        disk.faults = {}
        await leader.append()
        await trio.sleep(UPKEEP_PAUSE_SECONDS)
        assert kept_commit(timeline) == flushed


async def test_the_next_segment_is_made_before_it_is_needed(autojump_clock: trio.testing.MockClock) -> None:
    disk = new_disk()
    created: list[str] = []
    async with timelines_on(disk) as timelines:
        timeline = await timelines.create(TTID, SERVER)
        leader = Leader(timeline)
        await leader.be_elected()
        while leader.wal.lsn < 4 * SERVER.wal_seg_size - 100_000:
            await leader.append(50_000)
        await trio.sleep(1)
        disk.on_operation = lambda operation, path: created.append(operation)
        await leader.append(150_000)
        assert leader.wal.lsn > 4 * SERVER.wal_seg_size
        assert "create" not in created


def fail_syncs(disk: MemoryDisk) -> None:
    """From now on every sync fails."""
    disk.on_operation = lambda operation, _path: fail_next(disk, operation == "sync")


def fail_next(disk: MemoryDisk, is_to_fail: bool) -> None:
    """Called before an operation: let this one fail, or not."""
    disk.faults = {disk.operations - 1: Fault.IO_ERROR} if is_to_fail else {}


def kept_commit(timeline: Timeline) -> Lsn:
    state = timeline.statistics().state
    assert state is not None
    return state.kept.commit_lsn


def is_shut(timeline: Timeline) -> bool:
    return timeline.is_blown
