"""Spares are made aside, whole, and only what is ready is ever installed."""

from pathlib import Path

import pytest

from walkeeper.errors import DiskFull, DurabilityLost, FileMissing, StorageError
from walkeeper.storage.spare import PIECE_BYTES, SPARE_BEING_MADE, SpareSegments
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
    assert seen == ["unlink", "create", *["write", "sync"] * 3, "rename", "sync"]


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


@pytest.mark.parametrize("fault", [Fault.NO_SPACE, Fault.IO_ERROR])
@pytest.mark.parametrize("step", ["create", "write", "rename"])
def test_a_spare_that_cannot_be_made_leaves_nothing(
    step: str, fault: Fault, disk: MemoryDisk, spares: SpareSegments
) -> None:
    def fail(operation: str, _path: Path) -> None:
        if operation == step:
            disk.faults[disk.operations - 1] = fault

    disk.on_operation = fail
    with pytest.raises(StorageError) as caught:
        spares.prepare()
    assert isinstance(caught.value, DiskFull) == (fault is Fault.NO_SPACE)
    assert disk.names(DIRECTORY) == []
    assert not spares.is_ready


def test_nothing_is_touched_any_more_when_durability_is_lost(disk: MemoryDisk, spares: SpareSegments) -> None:
    before = disk.operations
    disk.faults[before + 3] = Fault.IO_ERROR
    with pytest.raises(DurabilityLost):
        spares.prepare()
    assert disk.operations == before + 4
    assert not spares.is_ready


def test_spares_do_not_pile_up(disk: MemoryDisk) -> None:
    for _ in range(3):
        SpareSegments(disk, DIRECTORY, SIZE).prepare()
        disk.create(DIRECTORY / SPARE_BEING_MADE).close()
    assert len(disk.names(DIRECTORY)) == 2


def test_a_spare_can_be_made_when_the_last_one_is_installed(disk: MemoryDisk, spares: SpareSegments) -> None:
    for name in ("one", "two"):
        spares.prepare()
        assert spares.install(DIRECTORY / name)
        assert not spares.install(DIRECTORY / "three")
    assert disk.names(DIRECTORY) == ["one", "two"]


def test_while_a_spare_is_being_installed_no_other_is_made(disk: MemoryDisk, spares: SpareSegments) -> None:
    spares.prepare()
    disk.on_operation = lambda operation, _path: spares.prepare() if operation == "rename" else None
    assert spares.install(SEGMENT)
    assert disk.names(DIRECTORY) == [SEGMENT.name]


def test_a_thread_that_fills_a_spare_for_too_long_cannot_reach_the_next_one(
    disk: MemoryDisk, spares: SpareSegments
) -> None:
    begun: list[bool] = []

    def begin_another(operation: str, _path: Path) -> None:
        if operation == "write" and not begun:
            begun.append(True)
            spares.prepare()
            spares.install(SEGMENT)
            with disk.open_for_writing(SEGMENT) as file:
                file.pwritev((b"wal",), 0)

    disk.on_operation = begin_another
    with pytest.raises(FileMissing):
        spares.prepare()
    with disk.open(SEGMENT) as file:
        assert file.pread(3, 0) == b"wal"
    assert not spares.is_ready
