"""What `walkeeper fetch` knows without asking anybody, on a real disk."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crc32c import crc32c

from walkeeper.errors import ConfigError, NotKept, StorageError, Unreachable
from walkeeper.formats.segments import segment_name
from walkeeper.ids import TenantTimelineId
from walkeeper.links.address import Address
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import LookingDisk, OsDisk
from walkeeper.testing.wal import WalGenerator
from walkeeper.tools.fetch import fetch, require_wal
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.spool import Spool

SEGMENT_BYTES = 1 << 20
SEGNO = 3
NAME = segment_name(1, SEGNO, SEGMENT_BYTES)
TTID = TenantTimelineId.of_system(77)


def segment() -> bytes:
    wal = WalGenerator(Lsn(SEGNO * SEGMENT_BYTES), wal_seg_size=SEGMENT_BYTES, system_id=77)
    wal.logical_message("test", bytes(1000))
    wal.switch()
    return wal.wal


def config(path: Path, file: str = NAME) -> FetchConfig:
    """Nobody is at the keepers' address."""
    return FetchConfig(
        (Address("127.0.0.1", 1),), TTID, file, path, server=None, system_id=77, ahead_bytes=0,
        may_be_unfinished=True, timeout_seconds=0.1,
    )  # fmt: skip


def entry(target: Path) -> Path:
    """Where the segment would have been put by a call that read ahead; the directory is there."""
    spool = Spool.beside(OsDisk(), LookingDisk(), target, TTID)
    spool.prepare()
    return spool.entry(NAME, crc32c(segment()))


@pytest.mark.parametrize("file", ["00000002.history", "0000000100000000000000A3.00000028.backup"])
def test_history_and_backup_files_do_not_exist(file: str) -> None:
    with pytest.raises(NotKept):
        require_wal(file)


@pytest.mark.parametrize(
    "file",
    ["", "PG_VERSION", "../pg_wal/0000000100000000000000A3", "0000000100000000000000A", "00000001.History",
     "0000000100000000000000A3.gz", "0000000100000000FFFFFFFF", "0000000100000000000000A3.backup"],
)  # fmt: skip
def test_what_postgresql_never_asks_for_is_a_mistake(file: str) -> None:
    with pytest.raises(ConfigError):
        require_wal(file)


def test_a_segment_that_was_read_ahead_is_found_without_loading_what_only_connections_need() -> None:
    code = "import sys, walkeeper.daemon.cli, walkeeper.tools.fetch; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"trio", "structlog", "msgspec", "scramp", "asyncio", "ssl"}.isdisjoint(loaded)
    assert "walkeeper" in loaded


# -- the place and the spool ---------------------------------------------------------------------------------


def test_what_was_read_ahead_is_given(tmp_path: Path) -> None:
    target, warnings = tmp_path / "got", list[str]()
    entry(target).write_bytes(segment())
    fetch(config(target), warn=warnings.append)
    assert target.read_bytes() == segment()
    assert [path.name for path in tmp_path.iterdir()] == ["got"]
    assert warnings == []


def damaged(path: Path) -> None:
    wal = bytearray(segment())
    wal[5000] ^= 1
    path.write_bytes(wal)


def linked(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(segment())
    path.symlink_to("elsewhere")


def forbidden(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [damaged, linked, os.mkfifo, forbidden])
def test_what_is_wrong_with_the_spool_is_told_and_the_keepers_are_asked(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    target, warnings = tmp_path / "got", list[str]()
    make(entry(target))
    with pytest.raises(Unreachable):
        fetch(config(target), warn=warnings.append)
    assert warnings
    assert not target.exists()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, linked])
@pytest.mark.parametrize("has_spool", [False, True])
def test_where_something_else_than_a_file_is_nothing_is_put(
    tmp_path: Path, make: Callable[[Path], None], has_spool: bool
) -> None:
    target = tmp_path / "got"
    make(target)
    before = target.lstat()
    if has_spool:
        entry(target).write_bytes(segment())
    with pytest.raises(StorageError):
        fetch(config(target), warn=lambda _: None)
    assert target.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_directory_that_has_no_name_of_its_own_is_a_directory_too(path: str) -> None:
    with pytest.raises(StorageError):
        fetch(config(Path(path)), warn=lambda _: None)


def test_about_files_that_nobody_keeps_nobody_is_asked_and_nothing_is_touched(tmp_path: Path) -> None:
    target = tmp_path / "got"
    entry(target).write_bytes(segment())
    with pytest.raises(NotKept):
        fetch(config(target, "00000002.history"), warn=lambda _: None)
    assert entry(target).exists()
