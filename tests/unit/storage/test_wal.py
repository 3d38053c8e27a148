"""Segments as one growing file: names, sizes, zeroes behind the end, and a disk that is full."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crash_points import DIRECTORY, SEGMENT, TLI, read_file, whole_directory
from walkeeper.errors import Corrupt, DiskFull, DurabilityLost, StorageError
from walkeeper.formats.segments import segment_name
from walkeeper.ids import NO_TLI, TimelineNumber
from walkeeper.lsn import Lsn
from walkeeper.storage.wal import Wal, segments_in, split_at_segments
from walkeeper.testing.memory_disk import Fault, MemoryDisk

BEGIN = Lsn(3 * SEGMENT)


def name(segno: int, suffix: str = "") -> str:
    return segment_name(TLI, segno, SEGMENT) + suffix


class SpaceMatters(MemoryDisk):
    """While ``is_full``, everything that takes space fails, again and again."""

    is_full = False

    def __init__(self) -> None:
        super().__init__()
        self.on_operation = self.use_space

    def use_space(self, operation: str, _path: Path) -> None:
        if self.is_full and operation in ("create", "write"):
            self.faults[self.operations - 1] = Fault.NO_SPACE


@pytest.fixture
def disk() -> SpaceMatters:
    disk = SpaceMatters()
    disk.mkdir(DIRECTORY)
    disk.fsync_dir(DIRECTORY.parent)
    return disk


@pytest.fixture
def wal(disk: MemoryDisk) -> Wal:
    return Wal(disk, DIRECTORY, SEGMENT)


def begun(disk: MemoryDisk, length: int) -> Wal:
    """WAL of ``length`` times 0x77, durable, at the start of segment 3."""
    wal = Wal(disk, DIRECTORY, SEGMENT)
    wal.truncate(BEGIN, TLI)
    if length:
        wal.write(BEGIN, (b"\x77" * length,), TLI)
        wal.sync()
    return wal


# -- writing ------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.lists(st.binary(max_size=30), max_size=8))
def test_bytes_are_split_at_segment_ends_and_nowhere_else(offset: int, slices: list[bytes]) -> None:
    pieces = list(split_at_segments(Lsn(160 + offset), slices, 16))
    assert b"".join(bytes(s) for _, part, _ in pieces for s in part) == b"".join(slices)
    assert all(length == sum(map(len, part)) > 0 for _, part, length in pieces)
    assert all(lsn % 16 + length <= 16 for lsn, _, length in pieces)
    assert all(b[0] == a[0] + a[2] and b[0] % 16 == 0 for a, b in pairwise(pieces))


def test_a_batch_may_span_several_segments(disk: MemoryDisk, wal: Wal) -> None:
    content = bytes(range(256)) * (SEGMENT // 256 * 2 + 100)
    wal.truncate(BEGIN, TLI)
    wal.write(BEGIN, (content[:1000], content[1000:]), TLI)
    wal.sync()
    disk.crash(0)
    assert disk.names(DIRECTORY) == [name(3), name(4), name(5, ".partial")]
    written = b"".join(read_file(disk, file) for file in disk.names(DIRECTORY))
    assert written == content.ljust(3 * SEGMENT, b"\0")


def test_a_segment_has_its_full_size_from_the_beginning(disk: MemoryDisk) -> None:
    """Hazard W8."""
    begun(disk, 1)
    assert len(read_file(disk, name(3, ".partial"))) == SEGMENT


def test_a_segment_that_is_full_gets_its_final_name_and_the_next_one_waits_for_wal(disk: MemoryDisk) -> None:
    begun(disk, SEGMENT)
    disk.crash(0)
    assert disk.names(DIRECTORY) == [name(3)]
    assert read_file(disk, name(3)) == b"\x77" * SEGMENT


def test_writing_needs_no_truncation_where_the_wal_ends(disk: MemoryDisk) -> None:
    wal = begun(disk, 1000)
    before = disk.operations
    wal.write(Lsn(BEGIN + 1000), (b"more",), TLI)
    wal.sync()
    assert disk.operations - before == 2  # pwritev, fdatasync


def test_a_sync_without_writes_does_nothing(disk: MemoryDisk) -> None:
    wal = begun(disk, 1000)
    before = disk.operations
    wal.sync()
    assert disk.operations == before


def test_writing_before_the_end_first_zeroes_what_an_operation_left_behind(disk: MemoryDisk) -> None:
    """Hazard W5: a segment that has its final name already may still be where WAL goes on."""
    wal = begun(disk, SEGMENT + 1000)
    wal.write(Lsn(BEGIN + 10), (b"new",), TLI)
    assert disk.names(DIRECTORY) == [name(3, ".partial")]
    assert read_file(disk, name(3, ".partial")) == (b"\x77" * 10 + b"new").ljust(SEGMENT, b"\0")


def test_a_write_that_failed_half_way_is_repaired_by_the_next(disk: MemoryDisk) -> None:
    """Hazards W1 and W6: a part of it is in the file, which stays open where it was, and nothing longer stays behind."""
    wal = begun(disk, 10)
    disk.faults[disk.operations] = Fault.IO_ERROR
    with pytest.raises(StorageError):
        wal.write(Lsn(BEGIN + 10), (b"long and half written",), TLI)
    wal.write(Lsn(BEGIN + 10), (b"short",), TLI)
    assert read_file(disk, name(3, ".partial")) == (b"\x77" * 10 + b"short").ljust(SEGMENT, b"\0")


def test_nothing_is_written_behind_a_tail_that_nobody_knows(disk: MemoryDisk) -> None:
    begun(disk, 1000)
    Wal(disk, DIRECTORY, SEGMENT).write(Lsn(BEGIN + 500), (b"x",), TLI)
    assert read_file(disk, name(3, ".partial")) == (b"\x77" * 500 + b"x").ljust(SEGMENT, b"\0")


def test_wal_is_not_written_behind_a_hole(disk: MemoryDisk, wal: Wal) -> None:
    with pytest.raises(Corrupt):
        wal.write(Lsn(BEGIN + 8), (b"x",), TLI)
    assert disk.names(DIRECTORY) == []


def test_durability_that_is_lost_is_reported_and_not_tried_again(disk: MemoryDisk) -> None:
    wal = begun(disk, 10)
    wal.write(Lsn(BEGIN + 10), (b"x",), TLI)
    disk.faults[disk.operations] = Fault.IO_ERROR
    with pytest.raises(DurabilityLost):
        wal.sync()


# -- the first segment --------------------------------------------------------------------------------------


def test_the_first_segment_begins_with_what_no_leader_streams(disk: MemoryDisk, wal: Wal) -> None:
    wal.initialize_first_segment(Lsn(BEGIN + 100), b"h" * 100, TLI)
    disk.crash(0)
    assert disk.names(DIRECTORY) == [name(3, ".partial")]
    assert read_file(disk, name(3, ".partial")) == (b"h" * 100).ljust(SEGMENT, b"\0")


def test_the_first_segment_replaces_what_an_interrupted_start_left(disk: MemoryDisk) -> None:
    wal = begun(disk, SEGMENT)
    wal.initialize_first_segment(Lsn(BEGIN + 100), b"h" * 100, TLI)
    assert disk.names(DIRECTORY) == [name(3, ".partial")]
    wal.write(Lsn(BEGIN + 100), (b"wal",), TLI)
    assert read_file(disk, name(3, ".partial")) == (b"h" * 100 + b"wal").ljust(SEGMENT, b"\0")


def make_stale_segments(disk: MemoryDisk) -> None:
    """Segments of starts that were interrupted, before and behind, of two timelines."""
    names = [
        name(1),
        name(2, ".partial"),
        segment_name(TimelineNumber(2), 2, SEGMENT),
        name(3),
        name(9, ".partial"),
    ]
    for stale in names:
        disk.create(DIRECTORY / stale).close()


def test_the_first_segment_is_the_only_one(disk: MemoryDisk, wal: Wal) -> None:
    make_stale_segments(disk)
    removed: list[str] = []
    disk.on_operation = lambda op, path: removed.extend([path.name] * (op == "unlink"))
    wal.initialize_first_segment(Lsn(BEGIN + 100), b"h" * 100, TLI)
    wal.truncate(Lsn(BEGIN + 100), TLI)
    disk.crash(0)
    assert disk.names(DIRECTORY) == [name(3, ".partial")]
    segnos = [file[16:24] for file in removed[:5]]
    assert segnos == sorted(segnos, reverse=True)


# -- truncating ---------------------------------------------------------------------------------------------


def test_truncation_removes_later_segments_from_the_highest_down(disk: MemoryDisk) -> None:
    """Hazard T2: what remains of an interrupted one is no continuation that anybody would believe."""
    wal = begun(disk, 3 * SEGMENT + 10)
    removed: list[str] = []
    disk.on_operation = lambda op, path: removed.extend([path.name] * (op == "unlink"))
    wal.truncate(Lsn(BEGIN + SEGMENT + 10), TLI)
    assert removed == [name(6, ".partial"), name(5)]
    assert disk.names(DIRECTORY) == [name(3), name(4, ".partial")]
    assert read_file(disk, name(4, ".partial")) == (b"\x77" * 10).ljust(SEGMENT, b"\0")


def test_a_complete_segment_loses_its_final_name_durably_before_it_is_cut(disk: MemoryDisk) -> None:
    """Hazard T4: nobody may take a segment for complete that ends in zeroes."""
    wal, done = begun(disk, SEGMENT + 10), list[tuple[str, str]]()
    disk.on_operation = lambda operation, path: done.append((operation, path.name))
    wal.truncate(Lsn(BEGIN + 10), TLI)
    renamed = done.index(("rename", name(3)))
    assert done[renamed + 1] == ("sync", DIRECTORY.name)
    assert done.index(("truncate", name(3, ".partial"))) > renamed + 1


def test_truncation_is_durable_when_it_returns(disk: MemoryDisk) -> None:
    wal = begun(disk, 2 * SEGMENT + 10)
    wal.truncate(Lsn(BEGIN + 10), TLI)
    before = whole_directory(disk)
    disk.crash(0)
    assert whole_directory(disk) == before


def test_a_segment_that_a_switch_filled_gets_its_final_name(disk: MemoryDisk) -> None:
    """Hazard 2.9: the padding was never sent, and is there."""
    wal = begun(disk, 1000)
    wal.truncate(Lsn(BEGIN + SEGMENT), TLI)
    disk.crash(0)
    assert disk.names(DIRECTORY) == [name(3), name(4, ".partial")]
    assert read_file(disk, name(3)) == (b"\x77" * 1000).ljust(SEGMENT, b"\0")


def test_a_short_segment_before_the_end_is_completed_with_zeroes(disk: MemoryDisk, wal: Wal) -> None:
    with disk.create(DIRECTORY / name(3, ".partial")) as file:
        file.pwritev((b"wal",), 0)
    wal.truncate(Lsn(BEGIN + SEGMENT), TLI)
    assert read_file(disk, name(3)) == b"wal".ljust(SEGMENT, b"\0")


def test_a_segment_that_ends_before_the_truncation_point_is_corrupt(disk: MemoryDisk, wal: Wal) -> None:
    with disk.create(DIRECTORY / name(3, ".partial")) as file:
        file.pwritev((b"wal",), 0)
    with pytest.raises(Corrupt):
        wal.truncate(Lsn(BEGIN + 8), TLI)


def test_truncation_at_a_segment_start_leaves_that_segment_empty(disk: MemoryDisk) -> None:
    wal = begun(disk, 10)
    wal.truncate(BEGIN, TLI)
    assert whole_directory(disk) == {name(3, ".partial"): bytes(SEGMENT)}


def test_truncation_without_a_timeline_id_leaves_no_segment(disk: MemoryDisk) -> None:
    wal = begun(disk, SEGMENT + 10)
    wal.truncate(BEGIN, NO_TLI)
    disk.crash(0)
    assert disk.names(DIRECTORY) == []
    wal.write(BEGIN, (b"wal",), TimelineNumber(7))
    assert [segment.tli for segment in segments_in(disk, DIRECTORY, SEGMENT)] == [7]


def test_where_there_is_no_wal_no_stale_segment_gets_a_final_name(disk: MemoryDisk, wal: Wal) -> None:
    make_stale_segments(disk)
    renamed: list[str] = []
    disk.on_operation = lambda op, path: renamed.extend([path.name] * (op == "rename"))
    wal.truncate(BEGIN, NO_TLI)
    disk.crash(0)
    assert (disk.names(DIRECTORY), renamed) == ([], [])


def test_of_two_names_of_one_segment_the_partial_one_is_believed(disk: MemoryDisk) -> None:
    begun(disk, 10)
    with disk.create(DIRECTORY / name(3)) as file:
        file.pwritev((b"stale" * 100,), 0)
    Wal(disk, DIRECTORY, SEGMENT).truncate(Lsn(BEGIN + 10), TLI)
    assert whole_directory(disk) == {name(3, ".partial"): (b"\x77" * 10).ljust(SEGMENT, b"\0")}


# -- a disk that is full ------------------------------------------------------------------------------------

LENGTHS = (0, 1000, SEGMENT - 100, SEGMENT)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_write_that_finds_no_space_leaves_everything_as_it_was(length: int, disk: SpaceMatters) -> None:
    wal = begun(disk, length)
    before = whole_directory(disk)
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(DiskFull):
            wal.write(Lsn(BEGIN + length), (b"new" * SEGMENT,), TLI)
        assert whole_directory(disk) == before
    disk.is_full = False
    disk.faults.clear()
    wal.write(Lsn(BEGIN + length), (b"new" * SEGMENT,), TLI)
    wal.sync()
    assert read_all(disk) == b"\x77" * length + b"new" * SEGMENT


def read_all(disk: MemoryDisk) -> bytes:
    return b"".join(read_file(disk, file) for file in disk.names(DIRECTORY)).rstrip(b"\0")


def attempt(length: int, step: int, fault: Fault, slices: Sequence[bytes]) -> tuple[MemoryDisk, Wal, object]:
    """Write with a fault at one operation; what came of it."""
    disk = MemoryDisk()
    disk.mkdir(DIRECTORY)
    wal = begun(disk, length)
    before = whole_directory(disk)
    operation = disk.operations + step
    disk.faults[operation] = fault
    try:
        wal.write(Lsn(BEGIN + length), slices, TLI)
    except DiskFull:
        assert whole_directory(disk) == before
        return disk, wal, DiskFull
    except StorageError as error:
        return disk, wal, type(error)
    return disk, wal, None if operation < disk.operations else "beyond"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_any_operation_of_a_write_leaves_no_timeline_stuck(length: int, fault: Fault) -> None:
    """Hazards W1, W4 and 2.9: whatever has failed, a later write of the same WAL succeeds."""
    new = b"new" * (SEGMENT // 2)
    outcomes = set()
    for step in range(100):
        disk, wal, outcome = attempt(length, step, fault, (new[:50], new[50:]))
        outcomes.add(outcome)
        if outcome == "beyond":
            break
        if outcome is not DiskFull and outcome is not None:
            wal = Wal(disk, DIRECTORY, SEGMENT)  # as a timeline that is read again
        if outcome is not None:
            wal.write(Lsn(BEGIN + length), (new,), TLI)
        wal.sync()
        assert read_all(disk) == b"\x77" * length + new
    assert outcomes >= {Fault.NO_SPACE: {DiskFull, DurabilityLost}, Fault.IO_ERROR: {StorageError}}.get(
        fault, {None}
    )


def test_a_write_that_cannot_be_undone_is_not_just_a_full_disk(disk: MemoryDisk) -> None:
    wal = begun(disk, 10)
    disk.faults.update({disk.operations + step: Fault.NO_SPACE for step in range(6)})
    with pytest.raises(StorageError) as caught:
        wal.write(Lsn(BEGIN + 10), (b"new",), TLI)
    assert not isinstance(caught.value, DiskFull)


def test_a_truncation_interrupted_by_a_fault_at_any_operation_can_be_done_again() -> None:
    """Hazards T1 to T4."""
    changed: list[bool] = []
    for step in range(100):
        disk = MemoryDisk()
        disk.mkdir(DIRECTORY)
        wal = begun(disk, 2 * SEGMENT + 10)
        names = disk.names(DIRECTORY)
        operation = disk.operations + step
        disk.faults[operation] = Fault.NO_SPACE
        try:
            wal.truncate(Lsn(BEGIN + 10), TLI)
        except DiskFull:
            changed.append(disk.names(DIRECTORY) != names)
        except StorageError:
            pass
        else:
            if operation >= disk.operations:
                break
        wal.truncate(Lsn(BEGIN + 10), TLI)
        assert whole_directory(disk) == {name(3, ".partial"): (b"\x77" * 10).ljust(SEGMENT, b"\0")}
    assert not any(changed)
    assert 10 < step < 99


# -- spares and old segments --------------------------------------------------------------------------------


def test_a_spare_becomes_the_next_segment(disk: MemoryDisk) -> None:
    wal = begun(disk, SEGMENT - 1)
    wal.spares.prepare()
    created: list[Path] = []
    disk.on_operation = lambda op, path: created.extend([path] * (op == "create"))
    wal.write(Lsn(BEGIN + SEGMENT - 1), (b"ab",), TLI)
    wal.sync()
    disk.crash(0)
    assert created == []
    assert disk.names(DIRECTORY) == [name(3), name(4, ".partial")]
    assert read_file(disk, name(4, ".partial")) == b"b".ljust(SEGMENT, b"\0")


def test_a_spare_is_wanted_when_the_segment_is_more_than_half_full(disk: MemoryDisk) -> None:
    wanted = [Wal(disk, DIRECTORY, SEGMENT).wants_spare]
    wal = begun(disk, SEGMENT // 2)
    wanted.append(wal.wants_spare)
    wal.write(Lsn(BEGIN + SEGMENT // 2), (b"x",), TLI)
    wanted.append(wal.wants_spare)
    wal.spares.prepare()
    wanted.append(wal.wants_spare)
    assert wanted == [False, False, True, False]


def test_a_spare_does_not_stay_when_the_wal_is_closed(disk: MemoryDisk) -> None:
    wal = begun(disk, 10)
    wal.spares.prepare()
    wal.close()
    assert disk.names(DIRECTORY) == [name(3, ".partial")]


@pytest.mark.parametrize(("seconds", "makes_it"), [(0.001, "truncate"), (1.0, "write")])
def test_wal_that_pours_in_gets_a_spare_that_costs_nothing(
    seconds: float, makes_it: str, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0.0]
    monkeypatch.setattr("walkeeper.storage.wal.perf_counter", lambda: times[0])
    wal = begun(disk, SEGMENT // 2 + 1)
    times[0] = seconds
    seen: list[str] = []
    disk.on_operation = lambda operation, _path: seen.append(operation)
    wal.prepare_spare()
    assert seen[:3] == ["unlink", "create", makes_it]
    assert seen[-3:] == ["sync", "rename", "sync"]
