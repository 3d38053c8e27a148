"""Reading back next to the writer."""

from pathlib import Path

import pytest

from crash_points import DIRECTORY, SEGMENT, TLI
from walkeeper.errors import Corrupt, StorageError, WalNotAvailable
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import Disk
from walkeeper.storage.reader import WalReader
from walkeeper.storage.wal import Wal, partial, segment_path
from walkeeper.testing.memory_disk import Fault, MemoryDisk

BEGIN = Lsn(3 * SEGMENT)
WAL = bytes(range(251)) * 6000
PATH = segment_path(DIRECTORY, TLI, BEGIN, SEGMENT)


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir(DIRECTORY)
    wal = Wal(disk, DIRECTORY, SEGMENT)
    wal.truncate(BEGIN, TLI)
    wal.write(BEGIN, (WAL,), TLI)
    return disk


def read(disk: Disk, lsn: int, length: int) -> bytes:
    return WalReader(disk, DIRECTORY, SEGMENT).read(Lsn(lsn), length, TLI)


def test_complete_and_partial_segments_are_read(disk: MemoryDisk) -> None:
    assert read(disk, BEGIN + 1000, 500) == WAL[1000:1500]
    assert read(disk, BEGIN + SEGMENT + 8, 500) == WAL[SEGMENT + 8 : SEGMENT + 508]


def test_a_read_never_crosses_a_segment(disk: MemoryDisk) -> None:
    assert read(disk, BEGIN + SEGMENT - 10, 500) == WAL[SEGMENT - 10 : SEGMENT]


def test_wal_without_a_segment_is_not_available(disk: MemoryDisk) -> None:
    for lsn in (BEGIN - 1, BEGIN + 2 * SEGMENT):
        with pytest.raises(WalNotAvailable) as caught:
            read(disk, lsn, 10)
        assert caught.value.lsn == lsn


def test_a_segment_that_is_too_short_is_corrupt(disk: MemoryDisk) -> None:
    with disk.open_for_writing(PATH) as file:
        file.truncate(1000)
    assert read(disk, BEGIN + 990, 10) == WAL[990:1000]
    with pytest.raises(Corrupt):
        read(disk, BEGIN + 991, 10)


def test_a_segment_that_cannot_be_opened_is_not_taken_for_missing(disk: MemoryDisk) -> None:
    disk.faults[disk.operations] = Fault.IO_ERROR
    with pytest.raises(StorageError) as caught:
        read(disk, BEGIN, 10)
    assert type(caught.value) is StorageError


@pytest.mark.parametrize("looks_before", [0, 1])
@pytest.mark.parametrize("names", [(PATH, partial(PATH)), (partial(PATH), PATH)])
def test_a_segment_that_is_renamed_while_we_look_is_found(
    looks_before: int, names: tuple[Path, Path], disk: MemoryDisk
) -> None:
    before, after = names
    if before != PATH:
        disk.rename(PATH, before)
    looks = []

    def rename_in_between(operation: str, _path: Path) -> None:
        if operation == "open":
            looks.append(True)
            if len(looks) == looks_before + 1:
                disk.rename(before, after)

    disk.on_operation = rename_in_between
    assert read(disk, BEGIN, 10) == WAL[:10]
