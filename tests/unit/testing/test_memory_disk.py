"""What a crash of the disk in memory takes, and what it must not take."""

from collections.abc import Callable
from pathlib import Path

import pytest

from walkeeper.errors import DiskFull, DurabilityLost, StorageError
from walkeeper.testing.memory_disk import SECTOR_BYTES, Fault, MemoryDisk, PowerCut

FILE = Path("/file")


def with_file(content: bytes = b"") -> MemoryDisk:
    """A disk with one durable file."""
    disk = MemoryDisk()
    with disk.create(FILE) as file:
        file.pwritev((content,), 0)
        file.fsync()
    disk.fsync_dir(FILE.parent)
    return disk


def content(disk: MemoryDisk, path: Path = FILE) -> bytes:
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


def outcomes(make: Callable[[], MemoryDisk], look: Callable[[MemoryDisk], object], seeds: int = 40) -> set[object]:
    """What ``look`` sees after crashes with different seeds."""
    seen = set()
    for seed in range(seeds):
        disk = make()
        disk.crash(seed)
        seen.add(look(disk))
    return seen


def test_what_is_synced_survives_every_crash() -> None:
    assert outcomes(lambda: with_file(b"content"), content) == {b"content"}


def test_what_is_not_synced_survives_in_any_combination_of_sectors() -> None:
    def make() -> MemoryDisk:
        disk = with_file(bytes(2 * SECTOR_BYTES))
        with disk.open_for_writing(FILE) as file:
            file.pwritev((b"x" * (2 * SECTOR_BYTES),), 0)
        return disk

    zero, new = bytes(SECTOR_BYTES), b"x" * SECTOR_BYTES
    assert outcomes(make, content) == {zero + zero, zero + new, new + zero, new + new}


def test_seed_0_loses_everything_and_seed_1_nothing() -> None:
    for seed, expected in ((0, b"old"), (1, b"newer")):
        disk = with_file(b"old")
        with disk.open_for_writing(FILE) as file:
            file.pwritev((b"newer",), 0)
        disk.create(Path("/other")).close()
        disk.crash(seed)
        assert content(disk) == expected
        assert len(disk.names(Path("/"))) == 1 + seed


def test_fdatasync_keeps_content_and_not_a_changed_size() -> None:
    disk = with_file(b"old")
    with disk.open_for_writing(FILE) as file:
        file.pwritev((b"newer",), 0)
        file.fdatasync()
    disk.crash(0)
    assert content(disk) == b"new"


def test_content_that_fdatasync_could_not_keep_is_kept_by_the_next_fsync() -> None:
    disk = with_file(b"old")
    with disk.open_for_writing(FILE) as file:
        file.pwritev((b"newer" * SECTOR_BYTES,), 0)
        file.fdatasync()
        file.fsync()
    disk.crash(0)
    assert content(disk) == b"newer" * SECTOR_BYTES


def test_the_sizes_of_an_interrupted_truncation_can_all_be_found() -> None:
    def make() -> MemoryDisk:
        disk = with_file(b"0123456789")
        with disk.open_for_writing(FILE) as file:
            file.truncate(4)
            file.truncate(8)
        return disk

    assert {len(seen) for seen in outcomes(make, content) if isinstance(seen, bytes)} == {4, 8, 10}


def test_a_name_needs_its_directory_to_be_synced() -> None:
    def make() -> MemoryDisk:
        disk = MemoryDisk()
        with disk.create(FILE) as file:
            file.fsync()
        return disk

    assert outcomes(make, lambda disk: tuple(disk.names(Path("/")))) == {(), ("file",)}


def test_a_rename_is_found_done_or_not_done() -> None:
    def make() -> MemoryDisk:
        disk = with_file(b"content")
        disk.rename(FILE, Path("/new"))
        return disk

    assert outcomes(make, lambda disk: tuple(disk.names(Path("/")))) == {("file",), ("new",)}


def test_renames_of_different_files_are_found_in_any_combination() -> None:
    def make() -> MemoryDisk:
        disk = MemoryDisk()
        for name in ("a", "b"):
            disk.create(Path("/") / name).close()
        disk.fsync_dir(Path("/"))
        for name in ("a", "b"):
            disk.rename(Path("/") / name, Path("/") / name.upper())
        return disk

    expected = {("a", "b"), ("A", "b"), ("B", "a"), ("A", "B")}
    assert outcomes(make, lambda disk: tuple(disk.names(Path("/")))) == expected


def test_a_sync_of_the_file_system_keeps_everything() -> None:
    def make() -> MemoryDisk:
        disk = MemoryDisk()
        disk.mkdir(Path("/directory"))
        with disk.create(Path("/directory/file")) as file:
            file.pwritev((b"content",), 0)
        disk.syncfs(Path("/"))
        return disk

    assert outcomes(make, lambda disk: content(disk, Path("/directory/file"))) == {b"content"}


def test_after_a_failed_sync_the_cache_shows_what_the_next_sync_does_not_save() -> None:
    disk = with_file(b"old")
    with disk.open_for_writing(FILE) as file:
        file.pwritev((b"new",), 0)
        disk.faults[disk.operations] = Fault.IO_ERROR
        with pytest.raises(DurabilityLost):
            file.fsync()
        file.fsync()
        assert content(disk) == b"new"
    disk.crash(1)
    assert content(disk) == b"old"


@pytest.mark.parametrize(("fault", "error"), [(Fault.NO_SPACE, DiskFull), (Fault.IO_ERROR, StorageError)])
def test_a_write_that_fails_has_written_a_part(fault: Fault, error: type[StorageError]) -> None:
    disk = with_file(b"----")
    with disk.open_for_writing(FILE) as file:
        disk.faults[disk.operations] = fault
        with pytest.raises(error):
            file.pwritev((b"1234",), 0)
    assert content(disk) == b"12--"


def test_a_short_write_is_completed() -> None:
    disk = with_file(b"----")
    with disk.open_for_writing(FILE) as file:
        disk.faults[disk.operations] = Fault.SHORT_WRITE
        file.pwritev((b"12", b"34"), 0)
    assert content(disk) == b"1234"


@pytest.mark.parametrize("after", [False, True])
def test_the_power_goes_off_at_one_operation_and_stays_off(after: bool) -> None:
    disk = with_file(b"old")
    with disk.open_for_writing(FILE) as file:
        disk.cut_power(disk.operations, after=after)
        with pytest.raises(PowerCut):
            file.pwritev((b"new",), 0)
        with pytest.raises(PowerCut):
            disk.names(Path("/"))
    disk.crash(1)
    assert content(disk) == (b"new" if after else b"old")


def test_files_opened_before_a_crash_cannot_be_used_after_it() -> None:
    disk = with_file(b"content")
    with disk.open(FILE) as file:
        disk.crash(0)
        with pytest.raises(AssertionError):
            file.pread(1, 0)


def test_a_crash_frees_locks() -> None:
    disk = with_file()
    assert disk.lock(FILE) is not None
    disk.crash(1)
    assert disk.lock(FILE) is not None
