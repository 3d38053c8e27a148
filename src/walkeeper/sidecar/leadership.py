"""One leadership as it looks from outside: who acknowledges, who is missing, and what waits.

All of it is worked out when somebody looks, from what proposer, links and window know anyway.  Changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from walkeeper.errors import Malformed
from walkeeper.formats.xlog import LONG_HEADER_BYTES, PAGE_BYTES, RecordHeader, RecordScanner, first_record_header
from walkeeper.links.ensemble import Ensemble
from walkeeper.links.window import Window
from walkeeper.lsn import Lsn
from walkeeper.proposer.proposer import Proposer, Stage

_RECORD_HEAD_BYTES: Final = 128
"""Enough to read the length of a record, page headers included."""


class KeeperState(StrEnum):
    """What a listed keeper is good for."""

    ACKNOWLEDGING = "acknowledging"
    """It gets the newest WAL, and its acknowledgements count."""
    CATCHING_UP = "catching_up"
    """It is there, and does not have the WAL yet that the others have, or waits for an election."""
    INCOMPLETE = "incomplete"
    """It is there, and is new or has lost its disk, so that it does not count yet."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Leadership:
    """An attempt to lead the keepers of ``ensemble``, with the WAL in ``window``."""

    ensemble: Ensemble
    window: Window

    @property
    def proposer(self) -> Proposer:
        return self.ensemble.proposer

    @property
    def is_leading(self) -> bool:
        return self.proposer.stage is Stage.LEADING

    # -- keepers ----------------------------------------------------------------------------------------------

    def states(self) -> Sequence[KeeperState]:
        """Of every keeper, in the order in which they are listed."""
        return [self._state_of(link.place) for link in self.ensemble.links]

    def _state_of(self, place: int) -> KeeperState:
        follower = self.proposer.followers[place]
        if not follower.has_greeted:
            return KeeperState.LOST
        if self.ensemble.is_blank(place):
            return KeeperState.INCOMPLETE
        # Whoever lags behind the window is fed by another keeper; a majority never does, for it has all that was dropped.
        newest_lsn = max(self.proposer.term_start_lsn, self.window.tail_lsn)
        if self.is_leading and follower.counts and follower.acked_lsn >= newest_lsn:
            return KeeperState.ACKNOWLEDGING
        return KeeperState.CATCHING_UP

    def why_not_leading(self) -> str:
        """What has to happen first, for people; empty when it leads."""
        if self.is_leading:
            return ""
        if self.proposer.has_won:
            return "elected; not proved yet that the primary's WAL continues the quorum's"
        return self.ensemble.troubles() or "no campaign is won yet"

    def why_no_majority(self) -> str:
        """Whose acknowledgements are missing, for people; empty when there are enough."""
        states = self.states()
        acknowledging = [place for place, state in enumerate(states) if state is KeeperState.ACKNOWLEDGING]
        if self.proposer.is_majority(acknowledging):
            return ""
        return "; ".join(
            self._describe(place, state)
            for place, state in enumerate(states)
            if state is not KeeperState.ACKNOWLEDGING
        )

    def _describe(self, place: int, state: KeeperState) -> str:
        link = self.ensemble.links[place]
        match state:
            case KeeperState.LOST:
                return link.trouble or f"{link}: not connected yet"
            case KeeperState.INCOMPLETE:
                return f"{link}: it is new or lost its disk, and does not count yet"
            case KeeperState.CATCHING_UP:
                return link.missing_wal or f"{link}: it catches up"
            case KeeperState.ACKNOWLEDGING:
                return f"{link}: it acknowledges, and is no member"
            case _:
                assert_never(state)

    # -- WAL --------------------------------------------------------------------------------------------------

    def is_inside_record(self) -> bool:
        """Whether the first record that is not committed may not have come to its end, so that none can be committed."""
        try:
            header = self._first_record()
        except Malformed:
            # The WAL of a first leader may begin inside a record.  Elsewhere the keepers will object.
            return self._begin_lsn == self.proposer.term_start_lsn
        return header is None or self.window.end_lsn < self._begin_lsn + _longest(header.total_bytes)

    def has_begun_only(self, lsn: Lsn) -> bool:
        """Whether of the WAL up to ``lsn``, which is not committed, no record has come to its end.

        It is looked at one record, and it does not matter when that cannot be told.
        """
        if not self.is_leading or self.window.end_lsn < lsn:
            return False
        begin_lsn, end_lsn = self._begin_lsn, self.window.end_lsn
        try:
            header = self._first_record()
            if header is None or end_lsn < begin_lsn + header.total_bytes:
                return True
            if end_lsn >= begin_lsn + _longest(header.total_bytes):
                return False
            server = self.proposer.server
            scanner = RecordScanner.start(begin_lsn, pg_major=server.pg_major, wal_seg_size=server.wal_seg_size)
            return scanner.scan(self.window.slices(begin_lsn, end_lsn)).record_end <= begin_lsn
        except Malformed:
            return False

    @property
    def _begin_lsn(self) -> Lsn:
        """Where the first record is that is not committed."""
        return max(self.proposer.commit_lsn, self.proposer.term_start_lsn)

    def _first_record(self) -> RecordHeader | None:
        """Its header, None while that has not come.  Raises Malformed."""
        begin_lsn, server = self._begin_lsn, self.proposer.server
        head_end = min(Lsn(begin_lsn + _RECORD_HEAD_BYTES), self.window.end_lsn)
        head = b"".join(self.window.slices(begin_lsn, head_end))
        return first_record_header(head, begin_lsn, pg_major=server.pg_major, wal_seg_size=server.wal_seg_size)


def _longest(record_bytes: int) -> int:
    """The most WAL that a record of so many bytes can take, headers of the pages it crosses included."""
    pages = record_bytes // (PAGE_BYTES - LONG_HEADER_BYTES) + 2
    return record_bytes + pages * LONG_HEADER_BYTES
