"""The copy of one WAL segment from the keepers to where PostgreSQL wants it, and of some more into the spool.

Rules:
* A segment is given by one keeper, from its beginning to its end.  One that fails, stops or has damaged WAL is left for
  the next one.
* Nothing gets its name before its records were checked.
* WAL that is committed but that keepers have removed, or never had, does not exist if every keeper listed says so: one
  that is down may be the one that has it.  If any of them fails instead, nobody can tell.
* Whatever goes wrong with reading ahead, and with the spool, is told, and harms nobody.

Does not decide whether the segment exists: ``fetch_search``.  Does not know exit codes.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from walkeeper.errors import (
    ConfigError,
    NotKept,
    PeerError,
    ServerError,
    StorageError,
    Unreachable,
    WalkeeperError,
)
from walkeeper.formats.segments import segment_name
from walkeeper.links.poll import Trouble
from walkeeper.lsn import Lsn
from walkeeper.tools.committed_wal import CommittedWal, read_committed
from walkeeper.tools.fetch_config import APPLICATION_NAME, FetchConfig
from walkeeper.tools.fetch_search import Wanted, find
from walkeeper.tools.segment_file import NewFile, SegmentFile, new_file
from walkeeper.tools.spool import Spool

AHEAD_SECONDS_MAX: Final = 5.0
"""For reading ahead: PostgreSQL waits meanwhile for a segment that is there."""

UNDEFINED_FILE: Final = "58P01"
"""What a keeper says that does not have the WAL, as PostgreSQL does of a segment that has been removed."""


async def fetch_wal(config: FetchConfig, target: NewFile, spool: Spool, warn: Callable[[str], None]) -> None:
    """Put the segment into ``target``, and some that follow into the spool.

    Raises NotKept if it certainly does not exist, and another WalkeeperError if that cannot be told.

    Cancellation: at any time; the file is there or not.
    """
    try:
        spool.clear()
    except StorageError as error:
        warn(f"what was read ahead earlier is still there: {error}")
    wanted = await find(config)
    troubles: list[WalkeeperError] = []
    file = SegmentFile(target, wanted.begin_lsn, wanted.server)
    for source in wanted.sources:
        file.restart()
        try:
            async with read_committed(
                source.address,
                config.ttid,
                wanted.begin_lsn,
                wanted.server,
                wanted.tli,
                application_name=APPLICATION_NAME,
            ) as wal:
                known_lsn = min(wanted.commit_lsn, source.kept.end_lsn)
                await wal.copy(file, wanted.stop_lsn, known_lsn)
                file.finish(target.path)
                await _try_ahead(spool, wanted, wal, known_lsn, config.ahead_bytes, warn)
                return
        except (PeerError, Unreachable, ServerError, ConfigError) as error:
            troubles.append(error)
    raise _nobody_gives(config.file, troubles, wanted.silent)


def _nobody_gives(file: str, troubles: Sequence[WalkeeperError], silent: Sequence[Trouble]) -> WalkeeperError:
    why = "; ".join([*map(str, troubles), *(each.why for each in silent)])
    if not silent and all(isinstance(each, ServerError) and each.sqlstate == UNDEFINED_FILE for each in troubles):
        return NotKept(f"no keeper has {file}: {why}")
    return Unreachable(f"no keeper gives {file}", why)


async def _try_ahead(
    spool: Spool, wanted: Wanted, wal: CommittedWal, known_lsn: Lsn, ahead_bytes: int, warn: Callable[[str], None]
) -> None:
    """What is not there in time is asked for another time."""
    try:
        with trio.move_on_after(AHEAD_SECONDS_MAX):
            await _read_ahead(spool, wanted, wal, known_lsn, ahead_bytes)
    except WalkeeperError as error:
        warn(f"not all was read ahead: {error}")


async def _read_ahead(spool: Spool, wanted: Wanted, wal: CommittedWal, known_lsn: Lsn, ahead_bytes: int) -> None:
    """Fill the spool with the segments behind the wanted one, ``ahead_bytes`` at most, that end below ``known_lsn``."""
    size = wanted.server.wal_seg_size
    stop_lsn = min(known_lsn, wanted.end_lsn + ahead_bytes)
    for begin_lsn in range(wanted.end_lsn, stop_lsn - size + 1, size):
        spool.require_room(size)
        spool.prepare()
        name = segment_name(wanted.tli, begin_lsn // size, size)
        with new_file(spool.disk, spool.path / name) as new:
            file = SegmentFile(new, Lsn(begin_lsn), wanted.server)
            await wal.copy(file, file.end_lsn, known_lsn)
            file.finish(spool.entry(name, file.crc))
