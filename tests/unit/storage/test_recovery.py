"""What a timeline is, read from disk: the whole records that are there, and nothing that is not durable."""

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
    read_wal,
)
from walkeeper.acceptor.effects import KeepControlFile, SyncWal, TruncateWal, WriteWal
from walkeeper.errors import Corrupt, DurabilityLost, StorageError
from walkeeper.formats.frames import FRAME_BYTES_MAX
from walkeeper.formats.proposer import encode_proposer_message
from walkeeper.ids import NodeId, TimelineNumber
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import ProposerElected, ProposerGreeting
from walkeeper.storage.recovery import CONTROL_FILE, INCOMPLETE, recover
from walkeeper.storage.store import TimelineStore, write_control_file
from walkeeper.storage.wal import partial, segment_path
from walkeeper.terms import Term, TermHistory
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.wal import WalGenerator

BOUNDARY = Lsn(6 * SEGMENT)


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def streaming(disk: MemoryDisk) -> Keeper:
    """A keeper that follows a leader and has no WAL yet."""
    keeper = Keeper(disk, Ledger(new_timeline(disk)))
    keeper.elect(START, keeper.recover().tli)
    return keeper


def with_wal(disk: MemoryDisk, total: int = 200_000) -> tuple[Keeper, WalGenerator]:
    keeper, wal = streaming(disk), new_wal(START, total, fill=0x66)
    keeper.append(wal)
    return keeper, wal


def segment(lsn: Lsn) -> Path:
    return segment_path(DIRECTORY, TLI, lsn, SEGMENT)


def damage(disk: MemoryDisk, lsn: int) -> None:
    with disk.open_for_writing(partial(segment(Lsn(lsn)))) as file:
        file.pwritev((b"\xff",), lsn % SEGMENT)


# -- the control file ---------------------------------------------------------------------------------------


def test_a_new_timeline_has_no_wal(disk: MemoryDisk) -> None:
    control_file = new_timeline(disk)
    recovered = recover(disk, DIRECTORY)
    assert recovered.control_file == control_file
    assert (recovered.end_lsn, recovered.tli) == (INVALID_LSN, 0)


@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(500)])
def test_a_control_file_that_is_none_keeps_the_timeline_closed_and_stays_as_it_is(
    content: bytes, disk: MemoryDisk
) -> None:
    """Invariant 34."""
    new_timeline(disk)
    with disk.create(DIRECTORY / CONTROL_FILE) as file:
        file.pwritev((content,), 0)
    with pytest.raises(Corrupt) as caught:
        recover(disk, DIRECTORY)
    assert caught.value.path == str(DIRECTORY / CONTROL_FILE)
    assert read_file(disk, CONTROL_FILE) == content


def test_a_control_file_cut_at_any_byte_is_refused(disk: MemoryDisk) -> None:
    new_timeline(disk)
    whole = read_file(disk, CONTROL_FILE)
    for length in range(len(whole)):
        with disk.create(DIRECTORY / CONTROL_FILE) as file:
            file.pwritev((whole[:length],), 0)
        with pytest.raises(Corrupt):
            recover(disk, DIRECTORY)


def test_a_directory_without_a_control_file_is_corrupt(disk: MemoryDisk) -> None:
    disk.mkdir(DIRECTORY)
    with pytest.raises(Corrupt):
        recover(disk, DIRECTORY)


def test_a_control_file_that_cannot_be_read_is_not_called_corrupt(disk: MemoryDisk) -> None:
    new_timeline(disk)
    disk.faults[disk.operations] = Fault.IO_ERROR
    with pytest.raises(StorageError) as caught:
        recover(disk, DIRECTORY)
    assert type(caught.value) is StorageError


def test_wal_of_an_unknown_server_keeps_the_timeline_closed(disk: MemoryDisk) -> None:
    new_timeline(disk, server=replace(SERVER, pg_version=90600), commit_lsn=START, local_start_lsn=START)
    with pytest.raises(Corrupt):
        recover(disk, DIRECTORY)


def test_leftovers_are_deleted_and_other_files_are_not(disk: MemoryDisk) -> None:
    """Hazards W9 and C1: what has a temporary name was promised to nobody."""
    new_timeline(disk)
    leftovers = ["safekeeper.control.partial", "waltmp", "walspare", "walspare.partial", "remote_partial.tmp"]
    for name in [*leftovers, "a note of the operator"]:
        disk.create(DIRECTORY / name).close()
    recover(disk, DIRECTORY)
    assert disk.names(DIRECTORY) == ["a note of the operator", INCOMPLETE, CONTROL_FILE]


def test_an_evicted_timeline_stays_shut_and_nothing_of_it_is_touched(disk: MemoryDisk) -> None:
    new_timeline(disk, evicted_at=Lsn(START + 800), commit_lsn=START)
    disk.create(DIRECTORY / "remote_partial.tmp").close()
    with pytest.raises(Corrupt, match="remote storage"):
        recover(disk, DIRECTORY)
    assert disk.names(DIRECTORY) == [INCOMPLETE, "remote_partial.tmp", CONTROL_FILE]


# -- the end of the WAL -------------------------------------------------------------------------------------


def test_the_end_is_that_of_the_last_whole_record(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk)
    more = WalGenerator(wal.lsn, pg_major=15, wal_seg_size=SEGMENT, prev=wal.prev)
    more.record(b"torn" * 10_000)
    keeper.store.perform(WriteWal(wal.lsn, (more.wal[:-8],), TLI))
    recovered = keeper.recover()
    assert (recovered.end_lsn, recovered.tli) == (wal.lsn, TLI)


def test_a_damaged_record_ends_the_wal(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk)
    victim = wal.records[-2]
    damage(disk, victim.start + 100)
    assert keeper.recover().end_lsn == victim.start


def test_damage_before_commit_lsn_is_not_looked_for(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk)
    keeper.commit()
    damage(disk, wal.records[0].start + 100)
    assert keeper.recover().end_lsn == wal.lsn


def test_the_padding_behind_a_switch_need_not_be_there(disk: MemoryDisk) -> None:
    keeper = streaming(disk)
    wal = new_wal(START, 100_000, fill=0x66, switch=True)
    keeper.append(wal, until=Lsn(wal.records[-1].start + 24))
    assert keeper.recover().end_lsn == BOUNDARY


def test_the_scan_crosses_segments_whatever_their_names(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk, SEGMENT + 100_000)
    disk.rename(segment(START), partial(segment(START)))
    disk.rename(partial(segment(BOUNDARY)), segment(BOUNDARY))
    assert keeper.recover().end_lsn == wal.lsn


@pytest.mark.parametrize("size", [0, 8, 100_000])
def test_a_short_segment_ends_the_wal_and_can_be_written_again(size: int, disk: MemoryDisk) -> None:
    """Hazards W8 and T3: a file that is too short ends the scan."""
    keeper, wal = with_wal(disk, SEGMENT + 200_000)
    with disk.open_for_writing(partial(segment(BOUNDARY))) as file:
        file.truncate(size)
    recovered = keeper.recover()
    assert recovered.end_lsn == wal.record_end_at(BOUNDARY + size)
    keeper.elect(recovered.end_lsn, recovered.tli)
    assert read_wal(disk, recovered.end_lsn) == wal.wal[: recovered.end_lsn - START]


def test_wal_that_does_not_reach_commit_lsn_is_corrupt(disk: MemoryDisk) -> None:
    keeper, _ = with_wal(disk)
    keeper.commit()
    with disk.open_for_writing(partial(segment(START))) as file:
        file.truncate(100_000)
    with pytest.raises(Corrupt) as caught:
        keeper.recover()
    assert caught.value.path == str(partial(segment(START)))
    disk.unlink(partial(segment(START)))
    with pytest.raises(Corrupt):
        keeper.recover()


def test_the_segment_before_a_commit_at_a_segment_start_must_be_there_and_whole(disk: MemoryDisk) -> None:
    keeper = streaming(disk)
    keeper.append(new_wal(START, 100_000, fill=0x66, switch=True))
    keeper.commit()
    assert keeper.recover().end_lsn == BOUNDARY
    with disk.open_for_writing(segment(START)) as file:
        file.truncate(SEGMENT - 1)
    with pytest.raises(Corrupt) as caught:
        keeper.recover()
    assert caught.value.path == str(segment(START))
    disk.unlink(segment(START))
    with pytest.raises(Corrupt):
        keeper.recover()


def test_a_truncation_at_commit_lsn_that_a_crash_interrupts_is_not_corrupt(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk)
    keeper.commit()
    with disk.open_for_writing(partial(segment(START))) as file:
        file.truncate(wal.lsn % SEGMENT)
    assert keeper.recover().end_lsn == wal.lsn


def test_a_segment_of_two_timelines_is_corrupt(disk: MemoryDisk) -> None:
    keeper, _ = with_wal(disk)
    disk.create(segment_path(DIRECTORY, TimelineNumber(2), START, SEGMENT)).close()
    with pytest.raises(Corrupt):
        keeper.recover()


# -- a stream that begins at a segment start, inside a record -----------------------------------------------


def started_at_boundary(disk: MemoryDisk) -> TimelineStore:
    control_file = new_timeline(disk)
    store = TimelineStore(disk, DIRECTORY)
    store.recover()
    store.perform(TruncateWal(BOUNDARY, TimelineNumber(0)))
    started = replace(control_file, timeline_start_lsn=BOUNDARY, local_start_lsn=BOUNDARY, commit_lsn=BOUNDARY)
    store.perform(KeepControlFile(started))
    return store


def test_the_first_page_of_a_timeline_may_go_on_with_a_record(disk: MemoryDisk) -> None:
    store = started_at_boundary(disk)
    wal = WalGenerator(BOUNDARY, pg_major=15, wal_seg_size=SEGMENT, tli=3, rem_len=20_000)
    wal.record(b"whole" * 5000)
    store.perform(WriteWal(BOUNDARY, (wal.wal,), TimelineNumber(3)))
    store.perform(SyncWal())
    recovered = store.recover()
    assert (recovered.end_lsn, recovered.tli) == (wal.lsn, 3)


def test_an_empty_timeline_does_not_know_its_timeline_id_whatever_file_there_is(disk: MemoryDisk) -> None:
    store = started_at_boundary(disk)
    store.perform(WriteWal(BOUNDARY, (b"torn",), TimelineNumber(3)))
    recovered = store.recover()
    assert (recovered.end_lsn, recovered.tli) == (BOUNDARY, 0)
    store.perform(TruncateWal(BOUNDARY, TimelineNumber(0)))
    assert disk.names(DIRECTORY) == [INCOMPLETE, CONTROL_FILE]


# -- the disk, not the page cache ---------------------------------------------------------------------------


def test_what_recovery_has_found_survives_a_crash_even_if_its_sync_had_failed(disk: MemoryDisk) -> None:
    """Hazard W10: after a failed sync the page cache is not believed (invariant 29)."""
    keeper, wal = with_wal(disk)
    keeper.commit()
    more = new_wal(wal.lsn, SEGMENT, fill=0x67, prev=wal.prev)
    keeper.ledger.extend(more)
    lose_every_sync(disk)
    with pytest.raises(DurabilityLost):
        keeper.store.perform(WriteWal(wal.lsn, (more.wal,), TLI))
    disk.faults.clear()
    found = keeper.recover().end_lsn
    assert found > wal.lsn  # the cache shows it
    disk.crash(0)
    assert keeper.recover().end_lsn == found
    assert read_wal(disk, found) == keeper.ledger.wal[: found - START]


def lose_every_sync(disk: MemoryDisk) -> None:
    disk.faults.update({disk.operations + step: Fault.IO_ERROR for step in (1, 2)})


def test_the_names_that_recovery_has_found_survive_a_crash(disk: MemoryDisk) -> None:
    keeper, wal = with_wal(disk, SEGMENT + 100_000)
    disk.rename(segment(START), partial(segment(START)))
    names = disk.names(DIRECTORY)
    assert keeper.recover().end_lsn == wal.lsn
    disk.crash(0)
    assert disk.names(DIRECTORY) == names


def test_the_names_of_a_timeline_without_wal_survive_a_crash_too(disk: MemoryDisk) -> None:
    control_file = new_timeline(disk)
    disk.rename(DIRECTORY / CONTROL_FILE, DIRECTORY / "other")
    disk.fsync_dir(DIRECTORY)
    disk.rename(DIRECTORY / "other", DIRECTORY / CONTROL_FILE)
    recover(disk, DIRECTORY)
    disk.crash(0)
    assert recover(disk, DIRECTORY).control_file == control_file


def test_a_full_disk_is_no_excuse_for_a_timeline_that_was_not_read(disk: MemoryDisk) -> None:
    keeper, _ = with_wal(disk)
    keeper.store.close()
    first = disk.operations
    refusals: list[type[StorageError]] = []
    recover(disk, DIRECTORY)
    for _ in range(disk.operations - first):
        disk.faults = {disk.operations + len(refusals): Fault.NO_SPACE}
        with pytest.raises(StorageError) as caught:
            recover(disk, DIRECTORY)
        refusals.append(type(caught.value))
    assert set(refusals) == {StorageError, DurabilityLost}


def test_recovery_that_cannot_make_it_durable_fails(disk: MemoryDisk) -> None:
    keeper, _ = with_wal(disk)
    syncs = []

    def fail_syncs(operation: str, _path: Path) -> None:
        if operation == "sync":
            syncs.append(True)
            disk.faults[disk.operations - 1] = Fault.IO_ERROR

    disk.on_operation = fail_syncs
    with pytest.raises(DurabilityLost):
        keeper.recover()
    assert syncs == [True]


def test_recovery_changes_nothing_that_can_be_seen(disk: MemoryDisk) -> None:
    keeper, _ = with_wal(disk, SEGMENT)
    keeper.store.close()
    before = {name: read_file(disk, name) for name in disk.names(DIRECTORY)}
    recover(disk, DIRECTORY)
    assert {name: read_file(disk, name) for name in disk.names(DIRECTORY)} == before


def test_a_control_file_written_once_is_read_back_equal(disk: MemoryDisk) -> None:
    control_file = replace(new_timeline(disk), term=7, backup_lsn=Lsn(800))  # type: ignore[arg-type]
    write_control_file(disk, DIRECTORY, control_file)
    assert recover(disk, DIRECTORY).control_file == control_file


def test_whatever_one_message_can_bring_is_read_back(disk: MemoryDisk) -> None:
    """The longest history, and the largest configuration: its members need more bytes in the file than on the way."""
    terms, members = FRAME_BYTES_MAX // 16 - 3, FRAME_BYTES_MAX // 11 - 10
    history = TermHistory.of(*((term, START) for term in range(1, terms + 1)))
    everybody = tuple(Member(NodeId(number), "", 5454) for number in range(1, members + 1))
    control_file = new_timeline(disk, term_history=history, configuration=Configuration(Generation(1), everybody))
    elected = ProposerElected(Generation(0), Term(terms), START, history)
    greeting = ProposerGreeting(control_file.ttid, control_file.configuration, SERVER)
    for message in (elected, greeting):
        assert 0.999 < len(encode_proposer_message(message, 3)) / FRAME_BYTES_MAX < 1
    assert recover(disk, DIRECTORY).control_file == control_file
