"""Spares are made aside, whole, and only what is ready is ever installed."""

from pathlib import Path

import pytest

from walkeeper.errors import DiskFull
from walkeeper.storage.spare import PIECE_BYTES, SpareSegments
from walkeeper.testing.memory_disk import Fault, MemoryDisk

DIRECTORY = Path("/timeline")
SEGMENT = DIRECTORY / "segment"
SIZE = 3 * PIECE_BYTES


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir(DIRECTORY)
    disk.fsync_dir(DIRECTORY.parent)
    return disk


@pytest.fixture
def spares(disk: MemoryDisk) -> SpareSegments:
    return SpareSegments(disk, DIRECTORY, SIZE)


def test_an_installed_spare_is_a_durable_file_of_zeroes(disk: MemoryDisk, spares: SpareSegments) -> None:
    spares.prepare()
    assert spares.install(SEGMENT)
    disk.crash(0)
    assert disk.names(DIRECTORY) == [SEGMENT.name]
    with disk.open(SEGMENT) as file:
        assert file.pread(2 * SIZE, 0) == bytes(SIZE)


def test_a_spare_is_written_and_synced_in_pieces(disk: MemoryDisk, spares: SpareSegments) -> None:
    seen: list[str] = []
    disk.on_operation = lambda operation, _path: seen.append(operation)
    spares.prepare()
    assert seen == ["create", *["write", "sync"] * 3]


def test_one_spare_is_enough(disk: MemoryDisk, spares: SpareSegments) -> None:
    spares.prepare()
    spares.prepare()
    assert len(disk.names(DIRECTORY)) == 1


def test_a_spare_that_is_being_made_is_not_used(disk: MemoryDisk, spares: SpareSegments) -> None:
    installed: list[bool] = []
    disk.on_operation = lambda *_: installed.append(spares.install(SEGMENT))
    spares.prepare()
    assert set(installed) == {False}
    assert spares.is_ready


def test_a_spare_that_recovery_has_deleted_is_not_missed(disk: MemoryDisk, spares: SpareSegments) -> None:
    spares.prepare()
    disk.unlink(DIRECTORY / disk.names(DIRECTORY)[0])
    assert not spares.install(SEGMENT)
    assert disk.names(DIRECTORY) == []


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_spare_that_finds_no_space_leaves_nothing(step: int, disk: MemoryDisk, spares: SpareSegments) -> None:
    disk.faults[disk.operations + step] = Fault.NO_SPACE
    with pytest.raises(DiskFull):
        spares.prepare()
    assert disk.names(DIRECTORY) == []
    assert not spares.is_ready


def test_the_spares_of_a_timeline_that_was_read_again_have_other_names(
    disk: MemoryDisk, spares: SpareSegments
) -> None:
    spares.prepare()
    SpareSegments(disk, DIRECTORY, SIZE).prepare()
    assert len(disk.names(DIRECTORY)) == 2


def test_two_that_are_made_at_once_do_not_touch_each_other(disk: MemoryDisk, spares: SpareSegments) -> None:
    """As when the first thread is slow."""
    begun: list[bool] = []

    def begin_another(operation: str, _path: Path) -> None:
        if operation == "write" and not begun:
            begun.append(True)
            spares.prepare()
            spares.install(SEGMENT)
            with disk.open_for_writing(SEGMENT) as file:
                file.pwritev((b"wal",), 0)

    disk.on_operation = begin_another
    spares.prepare()
    with disk.open(SEGMENT) as file:
        assert file.pread(3, 0) == b"wal"
    assert spares.is_ready
