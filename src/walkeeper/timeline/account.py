"""What a timeline has done since it was opened first, for those who look.

Bytes by stage: received, flushed, committed, in this order, each at most what the one before is.  Only WAL that was
flushed since the start is counted as committed: what had been here before had been received by an earlier process.

Does not decide anything, and nothing is decided by it.
"""

import time
from dataclasses import dataclass

from walkeeper.acceptor.state import AcceptorState
from walkeeper.lsn import INVALID_LSN, Lsn


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a writer was sent away, and when, in seconds since 1970."""

    why: str
    at: float


@dataclass(slots=True)
class Account:
    """``committed_at``, ``flushed_at``: when that LSN moved last, in seconds since 1970; None if it has not.

    ``waits_since``: since when WAL is here that is not known to be committed and nothing was committed, on the same clock;
    None when there is none.
    """

    received_bytes: int = 0
    flushed_bytes: int = 0
    committed_bytes: int = 0
    flushed_at: float | None = None
    committed_at: float | None = None
    waits_since: float | None = None
    refused: Refusal | None = None
    fuses_blown: int = 0
    _counted_from: Lsn = INVALID_LSN
    _has_opened: bool = False

    def open(self, state: AcceptorState) -> None:
        """The timeline was read from disk, for the first time or again."""
        if self._has_opened:
            self.truncate(state.wal.write_lsn)
        else:
            self._has_opened, self._counted_from = True, state.wal.write_lsn

    def truncate(self, lsn: Lsn) -> None:
        """The WAL ends at ``lsn`` now: what comes there is flushed for the first time, or again."""
        self._counted_from = min(self._counted_from or lsn, lsn)
        self.waits_since = None

    def advance(self, before: AcceptorState, after: AcceptorState) -> None:
        """Something was kept that has not truncated anything."""
        self.flushed_bytes += after.wal.write_lsn - before.wal.write_lsn
        if after.wal.flush_lsn > before.wal.flush_lsn:
            self.flushed_at = time.time()
        commit_lsn = after.ahead.commit_lsn
        if commit_lsn > before.ahead.commit_lsn:
            self.committed_bytes += max(0, commit_lsn - max(before.ahead.commit_lsn, self._counted_from))
            self.committed_at = self.waits_since = time.time()
        if after.wal.flush_lsn <= commit_lsn:
            self.waits_since = None
        elif self.waits_since is None:
            self.waits_since = time.time()

    def refuse(self, error: Exception) -> None:
        """A writer was sent away; the last one is remembered."""
        self.refused = Refusal(str(error), time.time())
