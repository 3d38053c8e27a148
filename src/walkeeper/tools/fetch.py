"""``walkeeper fetch %f %p``: a restore_command, which gives PostgreSQL the WAL that a quorum keeps.

PostgreSQL reads from the exit code alone what a failure means, and ends its recovery if a file does not exist.  So
there are two failures: ``NotKept``, when it is certain that there is no such file, and every other error, which says
that nobody can tell.  An outage is never the former.

Rules:
* Only WAL segments are kept: history and backup files do not exist, and nobody needs to be asked about them.
* A segment that was read ahead is taken from the spool; only then are keepers asked (``fetch_wal``), and what that
  takes is loaded.

Source: PostgreSQL ``access/transam/xlogarchive.c`` (RestoreArchivedFile); its documentation of restore_command.
"""

import re
from collections.abc import Callable
from typing import Final

from walkeeper.errors import ConfigError, NotKept
from walkeeper.formats.segments import WAL_SEG_SIZE_MIN, parse_segment_name
from walkeeper.storage.disk import OsDisk
from walkeeper.tools.fetch_config import FetchConfig
from walkeeper.tools.spool import Spool

_NOT_WAL: Final = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
"""What else PostgreSQL asks an archive for."""


def fetch(config: FetchConfig, *, warn: Callable[[str], None]) -> None:
    """Put the file at its path, durably.  ``warn`` hears, in a line, what went wrong without doing harm.

    Raises NotKept if it certainly does not exist, and another WalkeeperError if that cannot be told.
    """
    require_wal(config.file)
    disk = OsDisk()
    spool = Spool.beside(disk, config.path, config.ttid)
    if spool.take(config.file, config.path, config.system_id):
        return
    import trio

    from walkeeper.tools.fetch_wal import fetch_wal

    trio.run(fetch_wal, config, disk, spool, warn)


def require_wal(file: str) -> None:
    """Raises NotKept for the name of a file that no keeper keeps, ConfigError for one that PostgreSQL never asks for."""
    if _NOT_WAL.fullmatch(file):
        raise NotKept(f"{file} is not kept by keepers, only WAL is")
    if parse_segment_name(file, WAL_SEG_SIZE_MIN) is None:
        raise ConfigError(f"{file!r} is not the name of a WAL segment, a history file or a backup file")
