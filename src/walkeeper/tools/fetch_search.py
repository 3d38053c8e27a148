"""Whether a WAL segment exists among the keepers, and who has it: what ``walkeeper fetch`` has to know before it copies.

What is handed out ends at the commit LSN that a majority reports.  A single keeper may know of a later commit: then the
WAL goes on, and neither its end nor its absence can be told before a majority knows as much.  With a writer that is a
matter of a second; without one it takes ``walkeeper sync``.

Rules: nobody is believed alone, and keepers that contradict each other are an error.  Does not copy anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from walkeeper.errors import ConfigError, NotKept, ServerError, Unreachable, WalkeeperError
from walkeeper.formats.segments import SegmentName, parse_segment_name
from walkeeper.ids import TimelineNumber
from walkeeper.links.backoff import Backoff
from walkeeper.links.keeper import ask_server
from walkeeper.links.poll import Answer, Poll, Trouble, poll, unknown_timeline
from walkeeper.links.postgres import Connection
from walkeeper.lsn import Lsn, format_lsn
from walkeeper.messages import ServerInfo
from walkeeper.tools.fetch_config import APPLICATION_NAME, FetchConfig

PATIENCE_SECONDS: Final = 1.0
"""For the minority to answer as well.  While a keeper hangs, every segment that was not read ahead waits that long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A segment that exists.  ``commit_lsn`` is where the WAL ends that a majority knows to be committed.

    ``sources``: the keepers that may have it, those that know of most WAL first.  ``silent``: those that have not said
    whether they do.
    """

    tli: TimelineNumber
    begin_lsn: Lsn
    end_lsn: Lsn
    commit_lsn: Lsn
    server: ServerInfo
    sources: Sequence[Answer[ServerInfo]]
    silent: Sequence[Trouble]

    @property
    def stop_lsn(self) -> Lsn:
        """Where its WAL ends."""
        return min(self.end_lsn, self.commit_lsn)


async def find(config: FetchConfig) -> Wanted:
    """Ask until a majority has told enough.  Raises NotKept, ConfigError, and Unreachable when that takes too long.

    Cancellation: at any time.
    """
    search = Search(config)
    backoff = Backoff()
    with trio.move_on_after(config.timeout_seconds):
        while (wanted := search.look(await _ask_keepers(config))) is None:  # noqa: ASYNC110  nobody tells us
            await trio.sleep(backoff.next_pause_seconds())
        return wanted
    raise search.why


async def _ask_keepers(config: FetchConfig) -> Poll[ServerInfo]:
    async def ask(connection: Connection) -> ServerInfo:
        return config.server or await _ask_server(connection)

    return await poll(
        config.keepers, config.ttid, ask, application_name=APPLICATION_NAME, patience_seconds=PATIENCE_SECONDS
    )


async def _ask_server(connection: Connection) -> ServerInfo:
    try:
        return await ask_server(connection)
    except ServerError as error:
        raise ConfigError(f"{error}; give --pg-version and --wal-segment-size") from error


class Search:
    """What several looks at the same keepers tell; ``why`` is what is missing."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._known_lsn: Lsn | None = None
        self.why: WalkeeperError = Unreachable(f"a majority of {len(config.keepers)} keepers", "no answer in time")

    def look(self, found: Poll[ServerInfo]) -> Wanted | None:
        """The segment, or None while it has to be asked again.  Raises NotKept and ConfigError."""
        if found.is_unknown:
            raise unknown_timeline(self._config.ttid)
        if (commit_lsn := found.commit_lsn) is None:
            self.why = found.missing()
            return None
        if not found.highest_commit_lsn:  # nobody has ever led here, or its first commit is on its way
            self.why = Unreachable("the keepers", "they do not know of any committed WAL")
            return None
        server = agreed_server(self._config, found)
        name = self._located(server, found)
        begin_lsn = Lsn(name.segno * server.wal_seg_size)
        end_lsn = Lsn(begin_lsn + server.wal_seg_size)
        if self._must_wait(found, min(end_lsn, commit_lsn), min(end_lsn, found.highest_commit_lsn)):
            return None
        self._require(name, begin_lsn, end_lsn, commit_lsn)
        sources = sorted(found.answers, key=lambda each: each.kept.end_lsn, reverse=True)
        silent = [each for each in found.troubles if not each.is_ignorant]
        return Wanted(name.tli, begin_lsn, end_lsn, commit_lsn, server, sources, silent)

    def _must_wait(self, found: Poll[ServerInfo], majority_lsn: Lsn, highest_lsn: Lsn) -> bool:
        """Whether a majority does not know yet of what a single keeper knew when it was asked first."""
        if self._known_lsn is None:
            self._known_lsn = highest_lsn
        if majority_lsn >= self._known_lsn:
            return False
        troubles = "".join(f"; {each.why}" for each in found.troubles)
        self.why = Unreachable(
            "the keepers",
            f"WAL is committed up to {format_lsn(self._known_lsn)} at least, and a majority only knows of"
            f" {format_lsn(majority_lsn)}: run walkeeper sync{troubles}",
        )
        return True

    def _located(self, server: ServerInfo, found: Poll[ServerInfo]) -> SegmentName:
        file = self._config.file
        name = parse_segment_name(file, server.wal_seg_size)
        if name is None:
            raise ConfigError(
                f"{file} is not the name of a segment of {server.wal_seg_size} bytes, which keepers have"
            )
        kept = {each.kept.tli for each in found.answers if each.kept.end_lsn}
        if len(kept) > 1:
            raise ConfigError(f"the keepers have WAL of several of PostgreSQL's timeline ids: {sorted(kept)}")
        if name.tli not in kept:
            raise NotKept(
                f"{file} is of PostgreSQL's timeline id {name.tli}, and the keepers have WAL of {kept.pop()}"
            )
        return name

    def _require(self, name: SegmentName, begin_lsn: Lsn, end_lsn: Lsn, commit_lsn: Lsn) -> None:
        """Raises NotKept unless there is a segment that goes by this name."""
        file = self._config.file
        if commit_lsn <= begin_lsn:
            raise NotKept(f"{file} begins at {format_lsn(begin_lsn)}, and WAL ends at {format_lsn(commit_lsn)}")
        if name.partial and commit_lsn >= end_lsn:
            raise NotKept(f"{file} is finished, and goes by its plain name")
        if not name.partial and commit_lsn < end_lsn and not self._config.may_be_unfinished:
            raise NotKept(f"{file} is not finished: WAL ends at {format_lsn(commit_lsn)}")


def agreed_server(config: FetchConfig, found: Poll[ServerInfo]) -> ServerInfo:
    """Whose WAL the keepers have.  Raises ConfigError when they do not agree, or it is not whose it should be."""
    systems = {each.kept.system_id for each in found.answers} | {config.system_id or 0}
    systems.discard(0)
    kinds = {(each.told.pg_major, each.told.wal_seg_size) for each in found.answers}
    if len(systems) > 1 or len(kinds) > 1:
        seen = "; ".join(
            f"{each.address}: {each.kept.system_id}, PostgreSQL {each.told.pg_major}, {each.told.wal_seg_size} bytes"
            for each in found.answers
        )
        raise ConfigError(f"WAL of several clusters goes by this name, or not that of --system-id: {seen}")
    return replace(found.answers[0].told, system_id=next(iter(systems), 0))
