"""How the sidecar stands, and what it has done, for those who look: ``/metrics`` and ``/readyz``.

Whoever does the work writes plain attributes here, on the event loop; the rest is worked out when somebody looks.  What
that costs a commit is a comparison when its WAL comes, and one when a majority has it: one piece of WAL at a time is
watched from here to there.

Does not wait, and nothing is decided by it.
"""

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import majority
from walkeeper.sidecar.leadership import KeeperState, Leadership
from walkeeper.terms import INITIAL_TERM, Term

PRIMARY: Final = "primary reached"
LEADING: Final = "leading"
MAJORITY: Final = "acknowledged by a majority"
NOT_YET: Final = "not yet"

RECORD_SECONDS: Final = 0.1
"""For the rest of a record to follow its beginning; one that takes longer is looked at, and does not count as waiting."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How the sidecar stands at one moment.  None: not known, or that there is no such thing."""

    is_leading: bool
    term: Term
    keepers: Mapping[str, int]
    keepers_needed: int
    received_lsn: Lsn
    commit_lsn: Lsn
    waiting_seconds: float
    elections: int
    sessions_ended: int
    commits_wait: bool | None
    slot_retained_bytes: int | None
    slot_limit_bytes: int | None
    slot_look_failures: int


def _untimed(_seconds: float) -> None:
    """Nobody counts."""


class Account:
    """Of a sidecar with so many ``keepers``.  ``acknowledged`` hears how long WAL had to wait for a majority."""

    def __init__(self, keepers: int, acknowledged: Callable[[float], None] = _untimed) -> None:
        self.elections = 0
        self.sessions_ended = 0
        self.trouble = NOT_YET
        """Why there is no session, for people."""
        self.commits_wait: bool | None = None
        self.slot_retained_bytes: int | None = None
        self.slot_limit_bytes: int | None = None
        self.slot_look_failures = 0
        self.waits_up_to = INVALID_LSN
        """Up to where WAL is watched that no majority has; 0 if there is none.  It outlives a session: so do commits."""
        self._waits_since = 0.0
        """When the oldest of it came, on Trio's clock."""
        self._is_timed = False
        """Whether it came just then, so that its time tells something; else at most one wait before."""
        self._keepers = keepers
        self._acknowledged = acknowledged
        self._leadership: Leadership | None = None
        self._term = INITIAL_TERM
        self._received_lsn = INVALID_LSN
        self._commit_lsn = INVALID_LSN

    # -- what happens -----------------------------------------------------------------------------------------

    def begin(self, leadership: Leadership, flush_lsn: Lsn) -> None:
        """The primary is reached, which has WAL up to ``flush_lsn``, and keepers are asked for their votes."""
        self._leadership = leadership
        if self.waits_up_to > flush_lsn:
            self.waits_up_to = (
                INVALID_LSN  # it has lost what it had sent, as after a restore, and nobody waits for that
            )

    def end(self) -> None:
        """That is over.  What was reached stays."""
        self._term, self._received_lsn, self._commit_lsn = self._reached()
        self._leadership = None

    def session_ended(self, why: str) -> None:
        self.sessions_ended += 1
        self.trouble = why

    def is_due(self, now: float) -> bool:
        """Whether the WAL that comes now is the oldest that no majority has."""
        if not self.waits_up_to:
            return True
        return now - self._waits_since > RECORD_SECONDS and self._has_begun_only()

    def arrived(self, end_lsn: Lsn, now: float) -> None:
        """WAL up to there that is due; no majority has it."""
        self.waits_up_to, self._waits_since, self._is_timed = end_lsn, now, True

    def committed(self, commit_lsn: Lsn, received_lsn: Lsn) -> None:
        """A majority has more."""
        if not INVALID_LSN < self.waits_up_to <= commit_lsn:
            return
        now = trio.current_time()
        if self._is_timed:
            self._acknowledged(now - self._waits_since)
        self.waits_up_to = received_lsn if received_lsn > commit_lsn else INVALID_LSN
        self._waits_since, self._is_timed = now, False

    # -- looking ----------------------------------------------------------------------------------------------

    def look(self) -> Sight:
        """Now.  Does not wait."""
        term, received_lsn, commit_lsn = self._reached()
        leadership = self._leadership
        lost = [KeeperState.LOST] * self._keepers
        tally = Tally(lost if leadership is None else leadership.states())
        return Sight(
            is_leading=leadership is not None and leadership.is_leading,
            term=term,
            keepers={state.value: tally[state] for state in KeeperState},
            keepers_needed=majority(self._keepers) if leadership is None else leadership.proposer.keepers_needed,
            received_lsn=received_lsn,
            commit_lsn=commit_lsn,
            waiting_seconds=self._waiting_seconds(),
            elections=self.elections,
            sessions_ended=self.sessions_ended,
            commits_wait=self.commits_wait,
            slot_retained_bytes=self.slot_retained_bytes,
            slot_limit_bytes=self.slot_limit_bytes,
            slot_look_failures=self.slot_look_failures,
        )

    def awaits(self) -> Sequence[tuple[str, str]]:
        """What has to be so for commits not to wait for this sidecar, in order, each with why it is not, or nothing."""
        leadership = self._leadership
        if leadership is None:
            return [(PRIMARY, self.trouble), (LEADING, NOT_YET), (MAJORITY, NOT_YET)]
        if not leadership.is_leading:
            return [(PRIMARY, ""), (LEADING, leadership.why_not_leading()), (MAJORITY, NOT_YET)]
        return [(PRIMARY, ""), (LEADING, ""), (MAJORITY, leadership.why_no_majority())]

    def _reached(self) -> tuple[Term, Lsn, Lsn]:
        """Term, and up to where WAL was received and is committed: none of them goes back."""
        leadership = self._leadership
        if leadership is None:
            return self._term, self._received_lsn, self._commit_lsn
        return (
            max(self._term, leadership.proposer.term),
            max(self._received_lsn, leadership.window.end_lsn),
            max(self._commit_lsn, leadership.proposer.commit_lsn),
        )

    def _waiting_seconds(self) -> float:
        if not self.waits_up_to or self._has_begun_only():
            return 0.0
        return trio.current_time() - self._waits_since

    def _has_begun_only(self) -> bool:
        return self._leadership is not None and self._leadership.has_begun_only(self.waits_up_to)
