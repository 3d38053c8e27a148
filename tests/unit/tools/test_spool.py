"""Segments that were read ahead: taken if they are, bit by bit, what was read."""

import os
from pathlib import Path

import pytest
from crc32c import crc32c

from walkeeper.errors import Corrupt, DiskFull, StorageError
from walkeeper.formats.segments import segment_name
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import LookingDisk, OsDisk
from walkeeper.testing.memory_disk import Fault, MemoryDisk, unwatched
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.segment_file import TEMPORARY_MARK, new_file
from walkeeper.tools.spool import RESERVE_SEGMENTS, RESERVE_SHARE, Spool

SIZE = 1 << 20
SYSTEM_ID = 77
WHERE = Path("/pg_wal")
TARGET = WHERE / "RECOVERYXLOG"


def name_of(segno: int) -> str:
    return segment_name(1, segno, SIZE)


def segment(segno: int) -> bytes:
    wal = WalGenerator(Lsn(segno * SIZE), wal_seg_size=SIZE, system_id=SYSTEM_ID)
    wal.logical_message("test", bytes(1000))
    return bytes(wal.wal).ljust(SIZE, b"\0")


@pytest.fixture
def spool() -> Spool:
    """With the segments 3, 4 and 5."""
    disk = MemoryDisk()
    disk.mkdir(WHERE)
    spool = Spool.beside(disk, disk, TARGET, TenantTimelineId.of_system(SYSTEM_ID))
    spool.prepare()
    for segno in (3, 4, 5):
        put(spool, segno, segment(segno))
    disk.syncfs(WHERE)
    return spool


def put(spool: Spool, segno: int, content: bytes) -> None:
    """As if it had been read so; nothing else is there for that segment."""
    for name in spool.disk.names(spool.path):
        if name.startswith(name_of(segno)):
            spool.disk.unlink(spool.path / name)
    with spool.disk.create(spool.entry(name_of(segno), crc32c(content))) as file:
        file.pwritev([content], 0)


def take(spool: Spool, segno: int, system_id: int | None = SYSTEM_ID) -> bool:
    with new_file(spool.disk, TARGET) as target:
        is_taken = spool.take(name_of(segno), target, system_id)
    if is_taken:
        spool.remove_passed(name_of(segno))
    return is_taken


def content(spool: Spool) -> bytes:
    with spool.disk.open(TARGET) as file:
        return file.pread(file.size(), 0)


def test_a_segment_is_moved_durably_and_those_before_it_go(spool: Spool) -> None:
    assert take(spool, 4)
    assert spool.disk.names(spool.path) == [spool.entry(name_of(5), crc32c(segment(5))).name]
    assert isinstance(spool.disk, MemoryDisk)
    spool.disk.crash(seed=0)
    assert content(spool) == segment(4)


def test_the_directory_goes_with_the_last_segment(spool: Spool) -> None:
    assert all(take(spool, segno) for segno in (3, 4, 5))
    assert spool.disk.names(WHERE) == [TARGET.name]


def test_what_is_not_there_is_not_taken(spool: Spool) -> None:
    assert not take(spool, 6)
    spool.clear()
    assert not take(spool, 3)
    assert spool.disk.names(WHERE) == []


@pytest.mark.parametrize(
    "bad",
    [
        b"", segment(3)[:30], segment(3)[:-1], segment(3) + b"\0", segment(4), bytes(SIZE),
        b"\xff" + segment(3)[1:], segment(3)[:33] + b"\x02" + segment(3)[34:],
    ],
    ids=["empty", "head", "short", "long", "another", "zeroes", "magic", "size"],
)  # fmt: skip
def test_what_is_not_what_its_name_says_is_not_taken(spool: Spool, bad: bytes) -> None:
    put(spool, 3, bad)
    with pytest.raises(Corrupt):
        take(spool, 3)
    assert TARGET.name not in spool.disk.names(WHERE)


@pytest.mark.parametrize("place", [0, 24, 100, 5000, SIZE - 1])
def test_no_flipped_bit_goes_unnoticed(spool: Spool, place: int) -> None:
    """Not in a record, not in the rest of one that began earlier, and not in what nobody looks at."""
    with spool.disk.open_for_writing(spool.entry(name_of(3), crc32c(segment(3)))) as file:
        file.pwritev([bytes([file.pread(1, place)[0] ^ 4])], place)
    with pytest.raises(Corrupt):
        take(spool, 3)


def test_a_segment_of_another_cluster_is_not_taken_if_the_cluster_is_known(spool: Spool) -> None:
    with pytest.raises(Corrupt):
        take(spool, 3, system_id=78)
    assert take(spool, 3, system_id=None)


@pytest.mark.parametrize("name", [name_of(6), name_of(6) + TEMPORARY_MARK + "0" * 16, name_of(6) + ".0000000g"])
def test_a_segment_that_has_no_name_yet_is_not_taken(spool: Spool, name: str) -> None:
    spool.disk.create(spool.path / name).close()
    assert not take(spool, 6)


def test_a_segment_that_another_call_takes_meanwhile_is_not_there(spool: Spool) -> None:
    disk = spool.disk
    assert isinstance(disk, MemoryDisk)

    def hear(operation: str, _path: Path) -> None:
        if operation == "rename":
            disk.on_operation = unwatched
            spool.clear()

    disk.on_operation = hear
    assert not take(spool, 3)
    assert spool.disk.names(WHERE) == []


def test_what_a_killed_call_was_making_goes_with_what_is_passed(spool: Spool) -> None:
    for segno in (3, 5):
        spool.disk.create(spool.path / (name_of(segno) + TEMPORARY_MARK + "0" * 16)).close()
    assert take(spool, 4)
    assert take(spool, 5)
    assert spool.disk.names(WHERE) == [TARGET.name]


def test_a_disk_that_fails_is_told(spool: Spool) -> None:
    assert isinstance(spool.disk, MemoryDisk)
    spool.disk.faults[spool.disk.operations + 2] = Fault.IO_ERROR
    with pytest.raises(StorageError):
        take(spool, 3)


# -- room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total_bytes", [1 << 30, 1 << 40])
def test_there_is_room_for_what_leaves_some_segments_and_a_share_of_the_disk_free(
    spool: Spool, total_bytes: int
) -> None:
    assert isinstance(spool.disk, MemoryDisk)
    spool.disk.total_bytes = total_bytes
    reserve_bytes = max(RESERVE_SEGMENTS * SIZE, int(total_bytes * RESERVE_SHARE))
    spool.disk.free_bytes = reserve_bytes + SIZE
    spool.require_room(SIZE)
    spool.disk.free_bytes -= 1
    with pytest.raises(DiskFull):
        spool.require_room(SIZE)


# -- what is not a file --------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path) -> Spool:
    """Empty, on a real disk."""
    spool = Spool.beside(OsDisk(), LookingDisk(), tmp_path / TARGET.name, TenantTimelineId.of_system(SYSTEM_ID))
    spool.prepare()
    return spool


def take_real(spool: Spool) -> bool:
    with new_file(spool.disk, spool.path.with_name(TARGET.name)) as target:
        return spool.take(name_of(3), target, SYSTEM_ID)


def test_a_pipe_or_a_link_in_the_spool_is_neither_waited_for_nor_followed(real: Spool, tmp_path: Path) -> None:
    entry = real.entry(name_of(3), crc32c(segment(3)))
    os.mkfifo(entry)
    with pytest.raises(StorageError):
        take_real(real)
    entry.unlink()
    (tmp_path / "elsewhere").write_bytes(segment(3))
    entry.symlink_to("../elsewhere")
    with pytest.raises(StorageError):
        take_real(real)
    real.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_what_links_in_the_spool_lead_to_is_never_removed(real: Spool, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (real.path / "link").symlink_to("../precious")
    real.clear()
    real.path.symlink_to("precious")
    with pytest.raises(StorageError):
        take_real(real)
    real.clear()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "precious"]


def test_a_directory_in_the_spool_is_told_and_left(real: Spool) -> None:
    (real.path / "directory").mkdir()
    with pytest.raises(StorageError):
        real.clear()
    assert (real.path / "directory").is_dir()
