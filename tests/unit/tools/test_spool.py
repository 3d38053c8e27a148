"""Segments that were read ahead: taken if they are what they should be, else as good as missing."""

from pathlib import Path

import pytest

from walkeeper.errors import StorageError
from walkeeper.formats.segments import segment_name
from walkeeper.ids import TenantTimelineId
from walkeeper.lsn import Lsn
from walkeeper.testing.memory_disk import Fault, MemoryDisk
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.spool import Spool

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
    spool = Spool.beside(disk, TARGET, TenantTimelineId.of_system(SYSTEM_ID))
    spool.prepare()
    for segno in (3, 4, 5):
        put(spool, name_of(segno), segment(segno))
    disk.syncfs(WHERE)
    return spool


def put(spool: Spool, name: str, content: bytes) -> None:
    with spool.disk.create(spool.path / name) as file:
        file.pwritev([content], 0)


def take(spool: Spool, segno: int, system_id: int | None = SYSTEM_ID) -> bool:
    return spool.take(name_of(segno), TARGET, system_id)


def content(spool: Spool) -> bytes:
    with spool.disk.open(TARGET) as file:
        return file.pread(file.size(), 0)


def test_a_segment_is_moved_durably_and_those_before_it_go(spool: Spool) -> None:
    assert take(spool, 4)
    assert spool.disk.names(spool.path) == [name_of(5)]
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
    put(spool, name_of(3), bad)
    assert not take(spool, 3)


def test_a_segment_of_another_cluster_is_not_taken_if_the_cluster_is_known(spool: Spool) -> None:
    assert not take(spool, 3, system_id=78)
    assert take(spool, 3, system_id=None)


def test_a_segment_that_was_being_made_is_not_taken(spool: Spool) -> None:
    assert not spool.take(name_of(3) + ".walkeeper", TARGET, None)


def test_a_disk_that_fails_is_told(spool: Spool) -> None:
    assert isinstance(spool.disk, MemoryDisk)
    spool.disk.faults[spool.disk.operations] = Fault.IO_ERROR
    with pytest.raises(StorageError):
        take(spool, 3)
