"""The copy of one WAL segment from the keepers to where PostgreSQL wants it, and of some more into the spool.

Rules:
* A keeper that fails or stops is left for the next one, which goes on where it ended.
* WAL that is committed but that keepers have removed, or never had, does not exist if every keeper listed says so: one
  that is down may be the one that has it.  If any of them fails instead, nobody can tell.
* Whatever goes wrong with reading ahead is told, and harms nobody.

Does not decide whether the segment exists: ``fetch_search``.  Does not know exit codes.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from walkeeper.errors import ConfigError, NotKept, PeerError, ServerError, Unreachable, WalkeeperError
from walkeeper.formats.segments import segment_name
from walkeeper.links.poll import Trouble
from walkeeper.lsn import Lsn
from walkeeper.storage.disk import Disk
from walkeeper.tools.committed_wal import CommittedWal, read_committed
from walkeeper.tools.fetch_config import APPLICATION_NAME, FetchConfig
from walkeeper.tools.fetch_search import Wanted, find
from walkeeper.tools.segment_file import SegmentFile
from walkeeper.tools.spool import Spool

AHEAD_SECONDS_MAX: Final = 5.0
"""For reading ahead: PostgreSQL waits meanwhile for a segment that is there."""

UNDEFINED_FILE: Final = "58P01"
"""What a keeper says that does not have the WAL, as PostgreSQL does of a segment that has been removed."""


async def fetch_wal(config: FetchConfig, disk: Disk, spool: Spool, warn: Callable[[str], None]) -> None:
    """Put the segment at its path, and some that follow into the spool.

    Raises NotKept if it certainly does not exist, and another WalkeeperError if that cannot be told.

    Cancellation: at any time; the file is there or not.
    """
    spool.clear()
    wanted = await find(config)
    troubles: list[WalkeeperError] = []
    with SegmentFile(disk, config.path, wanted.begin_lsn, wanted.server) as file:
        for source in wanted.sources:
            begin_lsn = file.next_lsn
            try:
                async with read_committed(
                    source.address, config.ttid, begin_lsn, application_name=APPLICATION_NAME
                ) as wal:
                    await _make(file, wal, wanted.stop_lsn)
                    known_lsn = min(wanted.commit_lsn, source.kept.end_lsn)
                    await _try_ahead(spool, wanted, wal, min(known_lsn, wanted.end_lsn + config.ahead_bytes), warn)
                    return
            except PeerError as error:  # then all it sent is in doubt
                file.restart()
                troubles.append(error)
            except (Unreachable, ServerError, ConfigError) as error:
                troubles.append(error)
    raise _nobody_gives(config.file, troubles, wanted.silent)


async def _make(file: SegmentFile, wal: CommittedWal, stop_lsn: Lsn) -> None:
    await wal.copy(file, stop_lsn)
    file.check()
    file.finish()


def _nobody_gives(file: str, troubles: Sequence[WalkeeperError], silent: Sequence[Trouble]) -> WalkeeperError:
    why = "; ".join([*map(str, troubles), *(each.why for each in silent)])
    if not silent and all(isinstance(each, ServerError) and each.sqlstate == UNDEFINED_FILE for each in troubles):
        return NotKept(f"no keeper has {file}: {why}")
    return Unreachable(f"no keeper gives {file}", why)


async def _try_ahead(
    spool: Spool, wanted: Wanted, wal: CommittedWal, stop_lsn: int, warn: Callable[[str], None]
) -> None:
    """What is not there in time is asked for another time."""
    try:
        with trio.move_on_after(AHEAD_SECONDS_MAX):
            await _read_ahead(spool, wanted, wal, stop_lsn)
    except WalkeeperError as error:
        warn(f"not all was read ahead: {error}")


async def _read_ahead(spool: Spool, wanted: Wanted, wal: CommittedWal, stop_lsn: int) -> None:
    """Fill the spool with the segments behind the wanted one that end at or below ``stop_lsn``."""
    size = wanted.server.wal_seg_size
    for begin_lsn in range(wanted.end_lsn, stop_lsn - size + 1, size):
        spool.prepare()
        path = spool.path / segment_name(wanted.tli, begin_lsn // size, size)
        with SegmentFile(spool.disk, path, Lsn(begin_lsn), wanted.server) as file:
            await _make(file, wal, file.end_lsn)
