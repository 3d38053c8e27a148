"""``walkeeper fetch %f %p``: a restore_command, which gives PostgreSQL the WAL that a quorum keeps.

PostgreSQL reads from the exit code alone what a failure means, and ends its recovery if a file does not exist.  So
there are two failures: ``NotKept``, when it is certain that there is no such file, and every other error, which says
that nobody can tell.  An outage is never the former.

Rules:
* Only WAL segments are kept: history and backup files do not exist, and nobody needs to be asked about them.  All that
  keepers have under one name is of one timeline id, so PostgreSQL needs no history to find its way.
* Nothing but a file, or nothing, may be where the file shall be.
* A segment that was read ahead is taken from the spool; only then are keepers asked (``fetch_wal``), and what that
  takes is loaded.  A spool that is no good harms nobody.

Source: PostgreSQL ``access/transam/xlogarchive.c`` (RestoreArchivedFile); its documentation of restore_command.
"""

from collections.abc import Callable
from pathlib import Path

from walkeeper.errors import ConfigError, DurabilityLost, FileMissing, NotKept, StorageError, Superseded
from walkeeper.formats.segments import WAL_SEG_SIZE_MIN, is_beside_wal, parse_segment_name
from walkeeper.storage.disk import LookingDisk, OsDisk
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.segment_file import NewFile, new_file
from walkeeper.tools.spool import Spool


def fetch(config: FetchConfig, *, warn: Callable[[str], None]) -> None:
    """Put the file at its path, durably.  ``warn`` hears, in a line, what went wrong without doing harm.

    Raises NotKept if it certainly does not exist, and another WalkeeperError if that cannot be told.
    """
    require_wal(config.file)
    disk, look = OsDisk(), LookingDisk()
    _require_place(look, config.path)
    spool = Spool.beside(disk, look, config.path, config.ttid)
    with new_file(disk, config.path) as target:
        if _take(spool, config, target, warn):
            return
        import trio

        from walkeeper.tools.fetch_wal import fetch_wal

        trio.run(fetch_wal, config, target, spool, warn)


def _require_place(look: LookingDisk, path: Path) -> None:
    """Raises StorageError if anything but a file is there: a pipe, a directory, a symbolic link."""
    try:
        look.open(path).close()
    except FileMissing:
        pass


def _take(spool: Spool, config: FetchConfig, target: NewFile, warn: Callable[[str], None]) -> bool:
    """Whether the spool had it.  Raises StorageError only if there is no use in asking anybody else."""
    is_taken = False
    try:
        if is_taken := spool.take(config.file, target, config.system_id):
            spool.remove_passed(config.file)
    except (DurabilityLost, Superseded):
        raise
    except StorageError as error:
        warn(f"what was read ahead is of no use: {error}")
    return is_taken


def require_wal(file: str) -> None:
    """Raises NotKept for the name of a file that no keeper keeps, ConfigError for one that PostgreSQL never asks for."""
    if is_beside_wal(file):
        raise NotKept(f"{file} is not kept by keepers, only WAL is")
    if parse_segment_name(file, WAL_SEG_SIZE_MIN) is None:
        raise ConfigError(f"{file!r} is not the name of a WAL segment, a history file or a backup file")
