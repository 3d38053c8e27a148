"""The contract of a disk, for the operating system's and the one in memory alike."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarce import others_having_all_files
from walkeeper.errors import DiskFull, DurabilityLost, FileMissing, OutOfFiles, StorageError
from walkeeper.messages import Slice
from walkeeper.storage.disk import (
    FILES_HELD_BACK,
    SLICES_PER_WRITE_MAX,
    Disk,
    LookingDisk,
    OsDisk,
    naming_errors,
    naming_lost_durability,
    read_regular,
    write_all,
)
from walkeeper.storage.durable import replace_file
from walkeeper.testing.memory_disk import MemoryDisk


@pytest.fixture(params=["os", "memory"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return OsDisk() if request.param == "os" else MemoryDisk()


@pytest.fixture
def top(disk: Disk, tmp_path: Path) -> Path:
    if isinstance(disk, OsDisk):
        return tmp_path
    disk.mkdir(Path("/top"))
    return Path("/top")


def put(disk: Disk, path: Path, content: bytes) -> None:
    with disk.create(path) as file:
        file.pwritev((content,), 0)


def get(disk: Disk, path: Path) -> bytes:
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


def test_slices_are_written_one_after_the_other_from_an_offset(disk: Disk, top: Path) -> None:
    with disk.create(top / "file") as file:
        file.pwritev((b"ab", memoryview(b"-cd-")[1:3], b"", b"e"), 3)
    assert get(disk, top / "file") == b"\0\0\0abcde"


def test_more_slices_than_the_kernel_takes_at_once_are_written_too(disk: Disk, top: Path) -> None:
    slices = [bytes([i % 256]) for i in range(2 * SLICES_PER_WRITE_MAX + 5)]
    with disk.create(top / "file") as file:
        file.pwritev(slices, 0)
    assert get(disk, top / "file") == b"".join(slices)


def test_a_read_is_short_only_at_the_end_of_the_file(disk: Disk, top: Path) -> None:
    put(disk, top / "file", b"0123456789")
    with disk.open(top / "file") as file:
        assert [file.pread(4, offset) for offset in (0, 4, 8, 12)] == [b"0123", b"4567", b"89", b""]


def test_truncating_cuts_and_lengthens_with_zeroes(disk: Disk, top: Path) -> None:
    put(disk, top / "file", b"0123456789")
    with disk.open_for_writing(top / "file") as file:
        file.truncate(4)
        assert file.size() == 4
        file.truncate(6)
    assert get(disk, top / "file") == b"0123\0\0"


def test_creating_a_file_empties_one_of_that_name(disk: Disk, top: Path) -> None:
    put(disk, top / "file", b"old")
    disk.create(top / "file").close()
    assert get(disk, top / "file") == b""


def test_a_rename_replaces_and_an_open_file_follows_its_content(disk: Disk, top: Path) -> None:
    put(disk, top / "old", b"one")
    put(disk, top / "new", b"two")
    with disk.open_for_writing(top / "old") as file:
        disk.rename(top / "old", top / "new")
        file.pwritev((b"ONE",), 0)
    assert disk.names(top) == ["new"]
    assert get(disk, top / "new") == b"ONE"


def test_what_is_cached_can_be_read_without_waiting_unless_the_file_ends(disk: Disk, top: Path) -> None:
    put(disk, top / "file", b"0123456789")
    buffer = memoryview(bytearray(4))
    with disk.open(top / "file") as file:
        assert file.try_pread(buffer, 3)
        assert bytes(buffer) == b"3456"
        assert not file.try_pread(buffer, 7)


def test_a_file_that_cannot_be_read_is_left_to_who_waits_for_it(top: Path, disk: Disk) -> None:
    put(disk, top / "file", b"0123456789")
    file = disk.open(top / "file")
    file.close()
    if isinstance(disk, MemoryDisk):
        disk.is_cold = True
    assert not file.try_pread(memoryview(bytearray(4)), 0)


def test_an_unlinked_file_can_be_read_by_who_has_it_open(disk: Disk, top: Path) -> None:
    put(disk, top / "file", b"content")
    with disk.open(top / "file") as file:
        disk.unlink(top / "file")
        assert disk.names(top) == []
        assert file.pread(7, 0) == b"content"


def test_a_directory_moves_with_what_is_in_it(disk: Disk, top: Path) -> None:
    disk.mkdir(top / "a")
    disk.mkdir(top / "b")
    put(disk, top / "a" / "file", b"content")
    disk.rename(top / "a", top / "b" / "c")
    assert get(disk, top / "b" / "c" / "file") == b"content"
    assert not disk.is_directory(top / "a")


def test_syncs_of_all_kinds_succeed(disk: Disk, top: Path) -> None:
    with disk.create(top / "file") as file:
        file.pwritev((b"content",), 0)
        file.fdatasync()
        file.fsync()
    disk.fsync_dir(top)
    disk.syncfs(top)
    assert get(disk, top / "file") == b"content"


def test_of_a_file_system_at_most_all_is_free(disk: Disk, top: Path) -> None:
    space = disk.space(top)
    assert 0 <= space.free_bytes <= space.total_bytes
    assert space.total_bytes
    with pytest.raises(FileMissing):
        disk.space(top / "missing")


def test_a_lock_is_had_by_one_until_it_is_closed_and_keeps_the_content(disk: Disk, top: Path) -> None:
    put(disk, top / "lock", b"1234")
    mine = disk.lock(top / "lock")
    assert mine is not None
    assert disk.lock(top / "lock") is None
    assert get(disk, top / "lock") == b"1234"
    mine.close()
    mine.close()
    again = disk.lock(top / "lock")
    assert again is not None
    again.close()


def test_what_is_missing_is_named_with_operation_and_path(disk: Disk, top: Path) -> None:
    missing = top / "missing"
    for operation in (disk.open, disk.open_for_writing, disk.unlink, disk.names, disk.rmdir):
        with pytest.raises(FileMissing) as caught:
            operation(missing)
        assert caught.value.path == str(missing)
        assert caught.value.operation
    with pytest.raises(FileMissing):
        disk.rename(missing, top / "new")
    with pytest.raises(FileMissing):
        disk.create(missing / "file")
    assert not disk.is_directory(missing)


def test_other_failures_are_storage_errors_and_nothing_more_special(disk: Disk, top: Path) -> None:
    disk.mkdir(top / "full")
    put(disk, top / "full" / "file", b"")
    for operation, path in (
        (disk.mkdir, top / "full"),
        (disk.rmdir, top / "full"),
        (disk.unlink, top / "full"),
        (disk.names, top / "full" / "file"),
        (disk.create, top / "full"),
        (disk.open, top / "full" / "file" / "below"),
    ):
        with pytest.raises(StorageError) as caught:
            operation(path)
        assert type(caught.value) is StorageError


def test_a_disk_without_syncs_does_everything_else(tmp_path: Path) -> None:
    disk = OsDisk(sync=False)
    with disk.create(tmp_path / "file") as file:
        file.pwritev((b"content",), 0)
        file.fdatasync()
        file.fsync()
    disk.fsync_dir(tmp_path / "not even opened")
    disk.syncfs(tmp_path / "not even opened")
    assert get(disk, tmp_path / "file") == b"content"


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    disk = OsDisk()
    disk.mkdir(tmp_path / "directory")
    disk.create(tmp_path / "directory" / "file").close()
    assert (tmp_path / "directory").stat().st_mode & 0o077 == 0
    assert (tmp_path / "directory" / "file").stat().st_mode & 0o077 == 0


def test_a_pipe_in_the_place_of_a_file_is_an_error_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with OsDisk().open(tmp_path / "pipe") as pipe, pytest.raises(StorageError):
        pipe.pread(1, 0)


def test_a_look_reads_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    disk = LookingDisk()
    with disk.open(tmp_path / "file") as file:
        assert (file.size(), file.pread(9, 3)) == (7, b"tent")
        with pytest.raises(StorageError):
            file.pwritev((b"x",), 0)
    assert disk.names(tmp_path) == ["file"]
    assert disk.is_directory(tmp_path)
    with pytest.raises(FileMissing):
        disk.open(tmp_path / "missing")
    assert not disk.is_directory(tmp_path / "missing")


def test_a_look_goes_through_no_symbolic_link_and_touches_nothing_strange(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "way").symlink_to("directory")
    os.mkfifo(tmp_path / "pipe")
    disk = LookingDisk()
    for name in ("link", "directory", "pipe"):
        with pytest.raises(StorageError) as caught:
            disk.open(tmp_path / name)
        assert type(caught.value) is StorageError
    for name in ("way", "file"):
        with pytest.raises(StorageError):
            disk.names(tmp_path / name)
        assert not disk.is_directory(tmp_path / name)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_and_no_quota_are_disk_full(code: int) -> None:
    with pytest.raises(DiskFull) as caught, naming_errors("write to", Path("file")):
        raise OSError(code, os.strerror(code))
    assert (caught.value.operation, caught.value.path) == ("write to", "file")


def test_without_descriptors_what_was_begun_ends_and_nothing_else_begins(tmp_path: Path) -> None:
    disk = OsDisk()
    disk.create(tmp_path / "old").close()
    disk.require_files()
    with others_having_all_files():
        disk.require_files()
        with pytest.raises(OutOfFiles):
            disk.open(tmp_path / "old")
        replace_file(disk, tmp_path / "new", b"content", temporary="being made")
        assert disk.names(tmp_path) == ["new", "old"]
        disk.syncfs(tmp_path)
        for _ in range(2 * FILES_HELD_BACK):  # what is open for a moment is held back again
            disk.create(tmp_path / "new").close()
            with pytest.raises(FileMissing):
                disk.open_for_writing(tmp_path / "missing")
        replace_file(disk, tmp_path / "new", b"content", temporary="being made")
        with ExitStack() as stack:
            with pytest.raises(OutOfFiles):  # noqa: PT012
                while True:
                    stack.enter_context(disk.open_for_writing(tmp_path / "old"))
            with pytest.raises(OutOfFiles):
                disk.require_files()
    disk.require_files()
    assert get(disk, tmp_path / "new") == b"content"


def test_without_descriptors_a_disk_that_was_never_asked_has_none(tmp_path: Path) -> None:
    disk = OsDisk()
    with others_having_all_files():
        for operation in (disk.create, disk.names, disk.fsync_dir, disk.syncfs):
            with pytest.raises(OutOfFiles):
                operation(tmp_path)
        with pytest.raises(OutOfFiles):
            disk.require_files()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_here_and_none_anywhere_are_out_of_files(code: int) -> None:
    with pytest.raises(OutOfFiles) as caught, naming_errors("open", Path("file")):
        raise OSError(code, os.strerror(code))
    assert (caught.value.operation, caught.value.path) == ("open", "file")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF])
def test_a_sync_that_fails_has_lost_durability_whatever_the_reason(code: int) -> None:
    with pytest.raises(DurabilityLost), naming_lost_durability("fsync", Path("file")):
        raise OSError(code, os.strerror(code))


@given(st.lists(st.binary(max_size=9), max_size=9), st.lists(st.integers(1, 7), min_size=1))
def test_short_writes_are_continued_where_they_stopped(slices: list[bytes], lengths: list[int]) -> None:
    written = bytearray()

    def write_some(rest: Sequence[Slice], offset: int) -> int:
        assert offset == 100 + len(written)
        content = b"".join(rest)[: lengths[len(written) % len(lengths)]]
        written.extend(content)
        return len(content)

    write_all(write_some, slices, 100)
    assert bytes(written) == b"".join(slices)


def test_a_kernel_that_writes_nothing_and_says_nothing_has_no_space() -> None:
    with pytest.raises(OSError) as caught:
        write_all(lambda _slices, _offset: 0, [b"content"], 0)
    assert caught.value.errno == errno.ENOSPC


def test_what_somebody_else_keeps_up_is_read_through_links_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "link", 4) == b"0123"
    for name, reason in (("pipe", "not a file"), ("missing", "No such file"), (".", "directory")):
        with pytest.raises(OSError, match=reason):
            read_regular(tmp_path / name, 4)


def test_nothing_is_created_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "new").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError):
        OsDisk().create(tmp_path / "new")
    assert (tmp_path / "precious").read_bytes() == b"kept"
