"""Effects become files, in the order given, and errors leave the store usable or shut."""

from dataclasses import replace
from pathlib import Path

import pytest

from crash_points import (
    DIRECTORY,
    SEGMENT,
    SERVER,
    START,
    TLI,
    Keeper,
    Ledger,
    new_timeline,
    new_wal,
    read_file,
    read_stored,
)
from walkeeper.acceptor.effects import (
    BecomeWhole,
    Effect,
    InitializeFirstSegment,
    KeepControlFile,
    SyncWal,
    TruncateWal,
    WriteWal,
)
from walkeeper.errors import DiskFull, DurabilityLost, WalNotAvailable
from walkeeper.formats.segments import next_segment_start
from walkeeper.formats.xlog import first_segment_headers
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import OsDisk
from walkeeper.storage.store import FAILED, SMALL_WRITE_BYTES_MAX, TimelineStore
from walkeeper.storage.wal import REMOVE_SEGMENT, partial, segment_path
from walkeeper.terms import Term
from walkeeper.testing.memory_disk import Fault, MemoryDisk


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def keeper(disk: MemoryDisk) -> Keeper:
    keeper = Keeper(disk, Ledger(new_timeline(disk)))
    keeper.recover()
    return keeper


def test_a_kept_control_file_survives_a_crash(disk: MemoryDisk, keeper: Keeper) -> None:
    keeper.save(term=Term(7))
    disk.crash(0)
    assert keeper.recover().control_file.term == 7


def test_a_control_file_that_finds_no_space_leaves_the_old_one(disk: MemoryDisk, keeper: Keeper) -> None:
    keeper.save(term=Term(7))
    disk.faults[disk.operations + 1] = Fault.NO_SPACE
    with pytest.raises(DiskFull):
        keeper.save(term=Term(8))
    keeper.save(commit_lsn=START, local_start_lsn=START)
    assert keeper.recover().control_file.term == 7


def test_the_first_segment_gets_the_headers_of_the_server_in_the_control_file(
    disk: MemoryDisk, keeper: Keeper
) -> None:
    server = replace(SERVER, system_id=99)
    keeper.save(server=server)
    keeper.store.perform(InitializeFirstSegment(START, TLI))
    keeper.store.perform(TruncateWal(START, TLI))
    name = partial(segment_path(DIRECTORY, TLI, START, SEGMENT)).name
    head = first_segment_headers(START, server=server, tli=TLI)
    assert read_file(disk, name) == head.ljust(SEGMENT, b"\0")


def test_what_was_written_can_be_read_at_once(keeper: Keeper) -> None:
    keeper.elect(START, keeper.recover().tli)
    wal = new_wal(START, SEGMENT, fill=0x12)
    keeper.append(wal)
    assert read_stored(keeper.store, START, 1000) == wal.wal[:1000]
    assert read_stored(keeper.store, Lsn(START + 5000), 1000) == wal.wal[5000:6000]


def test_before_there_is_wal_none_is_available(keeper: Keeper) -> None:
    with pytest.raises(WalNotAvailable):
        read_stored(keeper.store, START, 1000)


def test_after_a_failed_sync_nothing_is_done_until_the_timeline_is_read_again(
    disk: MemoryDisk, keeper: Keeper
) -> None:
    """Hazard W10, invariant 29."""
    keeper.elect(START, keeper.recover().tli)
    wal = new_wal(START, 100_000, fill=0x12)
    keeper.store.perform(WriteWal(START, (wal.wal,), TLI))
    disk.faults[disk.operations] = Fault.IO_ERROR
    for _ in range(2):
        with pytest.raises(DurabilityLost):
            keeper.store.perform(SyncWal())
    before = disk.operations
    with pytest.raises(DurabilityLost):
        keeper.store.perform(KeepControlFile(replace(keeper.ledger.kept, commit_lsn=wal.lsn)))
    assert disk.operations == before
    keeper.recover()
    keeper.store.perform(SyncWal())


def test_a_timeline_that_was_made_here_is_whole_once_it_has_been_told_so(disk: MemoryDisk, keeper: Keeper) -> None:
    assert not keeper.recover().is_whole
    for _ in range(2):
        keeper.store.perform(BecomeWhole())
        disk.crash(0)
        assert keeper.recover().is_whole


def test_a_directory_that_says_nothing_of_the_kind_is_whole(disk: MemoryDisk, keeper: Keeper) -> None:
    """Neon's, or one of a time before."""
    disk.unlink(DIRECTORY / "incomplete")
    assert keeper.recover().is_whole


def test_everything_is_observed_with_its_size(disk: MemoryDisk) -> None:
    seen: list[tuple[str, int]] = []
    new_timeline(disk)
    keeper = Keeper(disk, Ledger(new_control_file := TimelineStore(disk, DIRECTORY).recover().control_file))
    keeper.store = TimelineStore(
        disk, DIRECTORY, observe=lambda operation, seconds, size: seen.append((operation, size * (seconds >= 0)))
    )
    assert keeper.recover().control_file == new_control_file
    keeper.elect(START, keeper.recover().tli)
    keeper.append(new_wal(START, SEGMENT, fill=0x12), batch=2 * SEGMENT)
    assert {operation for operation, _ in seen} == {
        "persist_control_file",
        "initialize_first_segment",
        "truncate_wal",
        "write_wal",
        "initialize_segment",
        "flush_wal",
    }
    assert ("write_wal", len(keeper.ledger.wal)) in seen
    assert ("initialize_segment", SEGMENT) in seen


def test_an_operation_that_fails_is_observed_as_a_failure_and_nothing_else(disk: MemoryDisk) -> None:
    control_file = new_timeline(disk)
    seen: list[object] = []
    store = TimelineStore(disk, DIRECTORY, observe=lambda *what: seen.append(what))
    store.recover()
    disk.faults[disk.operations] = Fault.NO_SPACE
    with pytest.raises(DiskFull):
        store.perform(KeepControlFile(control_file))
    assert seen == [(FAILED, 0.0, 0)]


def test_segments_that_a_truncation_removes_are_observed_one_by_one(disk: MemoryDisk, keeper: Keeper) -> None:
    seen: list[str] = []
    keeper.elect(START, keeper.recover().tli)
    keeper.append(new_wal(START, 3 * SEGMENT, fill=0x12))
    store = TimelineStore(disk, DIRECTORY, observe=lambda operation, *_: seen.append(operation))
    store.recover()
    store.perform(TruncateWal(START, TLI))
    assert seen.count(REMOVE_SEGMENT) == 3


def test_a_store_knows_how_much_it_has_written_and_how_long_that_took(keeper: Keeper) -> None:
    keeper.elect(START, keeper.recover().tli)
    keeper.append(new_wal(START, 100_000, fill=0x12))
    statistics = keeper.store.statistics
    assert statistics.written_bytes == len(keeper.ledger.wal)
    assert statistics.written_seconds > 0
    assert statistics.flushed_seconds > 0


def test_a_spare_is_made_when_it_is_wanted(disk: MemoryDisk, keeper: Keeper) -> None:
    wanted = [keeper.store.wants_spare]
    keeper.elect(START, keeper.recover().tli)
    keeper.append(new_wal(START, SEGMENT // 2, fill=0x12))
    wanted.append(keeper.store.wants_spare)
    keeper.store.prepare_spare()
    wanted.append(keeper.store.wants_spare)
    assert wanted == [False, True, False]


def test_reading_a_timeline_again_deletes_spares_and_forgets_them(disk: MemoryDisk, keeper: Keeper) -> None:
    keeper.elect(START, keeper.recover().tli)
    wal = new_wal(START, SEGMENT // 2, fill=0x12)
    keeper.append(wal)
    keeper.store.prepare_spare()
    recovered = keeper.recover()
    assert [name for name in disk.names(DIRECTORY) if "spare" in name] == []
    keeper.elect(recovered.end_lsn, recovered.tli)
    keeper.append(new_wal(wal.lsn, SEGMENT, fill=0x13, prev=wal.prev))
    assert keeper.recover().end_lsn > wal.lsn


def test_a_closed_store_can_be_opened_again(keeper: Keeper) -> None:
    keeper.store.close()
    keeper.store.close()
    assert keeper.recover().control_file == keeper.ledger.kept


def test_a_whole_life_on_a_real_disk(tmp_path: Path) -> None:
    disk = OsDisk(sync=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crash_points.DIRECTORY", tmp_path / "timeline")
        keeper = Keeper(disk, Ledger(new_timeline(disk)))
        keeper.elect(START, keeper.recover().tli)
        wal = new_wal(START, 2 * SEGMENT + 1000, fill=0x12)
        keeper.append(wal)
        keeper.store.prepare_spare()
        recovered = keeper.recover()
        assert recovered.end_lsn == wal.lsn
        keeper.elect(wal.records[5].end, recovered.tli)
        assert keeper.recover().end_lsn == wal.records[5].end
        keeper.store.close()


# -- what is over at once -------------------------------------------------------------------------------------


def write(begin: int, size: int) -> WriteWal:
    return WriteWal(Lsn(begin), (bytes(size),), TLI)


LEFT = 500
"""What the open segment has room for: less than what is small."""

END = Lsn(next_segment_start(START, SEGMENT) - LEFT)


@pytest.fixture
def writing(keeper: Keeper) -> Keeper:
    """Its segment is open, and WAL ends at END."""
    keeper.store.perform(InitializeFirstSegment(START, TLI))
    for effect in (TruncateWal(START, TLI), write(START, END - START), SyncWal()):
        keeper.store.perform(effect)
    return keeper


@pytest.mark.parametrize("size", [1, LEFT - 1])
def test_a_small_write_within_the_open_segment_is_brief_and_needs_no_files(writing: Keeper, size: int) -> None:
    effects: list[Effect] = [write(END, size), SyncWal()]
    assert writing.store.is_brief(effects)
    assert not writing.store.needs_files(effects)


@pytest.mark.parametrize("size", [SMALL_WRITE_BYTES_MAX, SMALL_WRITE_BYTES_MAX + 1, SEGMENT // 2])
def test_a_write_within_the_open_segment_needs_no_files_and_is_brief_if_it_is_small(
    writing: Keeper, size: int
) -> None:
    begin = Lsn(END + LEFT)
    for effect in (write(END, LEFT + 8), SyncWal()):
        writing.store.perform(effect)
    effects: list[Effect] = [write(begin + 8, size), SyncWal()]
    assert writing.store.is_brief(effects) is (size <= SMALL_WRITE_BYTES_MAX)
    assert not writing.store.needs_files(effects)


@pytest.mark.parametrize(
    "effects",
    [
        [],
        [SyncWal()],
        [write(END - 8, 100), SyncWal()],  # truncates first
        [write(END, LEFT), SyncWal()],  # completes the segment
        [write(END, LEFT + 1), SyncWal()],  # and makes one
        [write(END, 100), SyncWal(), BecomeWhole()],
        [TruncateWal(END, TLI)],
    ],
)
def test_what_does_more_is_not_brief_and_may_need_files(writing: Keeper, effects: list[Effect]) -> None:
    assert not writing.store.is_brief(effects)
    assert writing.store.needs_files(effects)


def test_where_no_segment_is_open_everything_needs_files(writing: Keeper) -> None:
    small: list[Effect] = [write(END, 100), SyncWal()]
    for shut in (writing.recover, writing.store.close):
        shut()
        assert not writing.store.is_brief(small)
        assert writing.store.needs_files(small)
    writing.recover()
    for effect in small:
        writing.store.perform(effect)
    assert writing.store.is_brief([write(END + 100, 100), SyncWal()])
