"""One keeper as the proposer sees it: how far the conversation has come, and how far its WAL.

Plain state and the small questions about it; the rules that move it are in ``proposer.proposer``.  What outlives a
connection (node id, vote, acknowledged positions) and what does not is told apart in ``hang_up``.
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final

from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import NO_HOT_STANDBY, HotStandbyFeedback, VoteResponse

UNKNOWN_NODE: Final = NodeId(0)


class Phase(Enum):
    """How far the conversation of one connection has come."""

    OFFLINE = auto()
    CONNECTED = auto()
    """Nothing has been said yet."""
    GREETING = auto()
    """We greeted and wait for the answer."""
    WAITING = auto()
    """Greetings exchanged; the next word is ours, once there is a campaign."""
    VOTING = auto()
    """We asked for the vote and wait for the answer."""
    VOTED = auto()
    """The answer is known; the next word is ours, once we lead."""
    STREAMING = auto()
    """It was told of our election and gets WAL."""


_OWES_AN_ANSWER = (Phase.GREETING, Phase.VOTING, Phase.STREAMING)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Whether a keeper that came to a leader with nothing has forgotten a promise it gave to a later one.

    It may be new, or have lost its disk.  Its word counts when enough others have acknowledged, in our term, WAL of
    above ``since_lsn``, which was sent after it came: ``vouchers`` (voters) are those that have.
    """

    since_lsn: Lsn
    vouchers: frozenset[int] = frozenset()


@dataclass(slots=True)
class Follower:
    """``started_at`` is where this connection began to stream, ``streaming_at`` the next byte to send; both are
    0 unless streaming.  ``acked_lsn`` and ``persisted_commit_lsn`` are what it reported under our term,
    ``hot_standby`` what the standbys that read from it need.  Times are
    the caller's seconds.
    """

    name: str
    phase: Phase = Phase.OFFLINE
    node_id: NodeId = UNKNOWN_NODE
    granted: bool = False
    vote: VoteResponse | None = None
    started_at: Lsn = INVALID_LSN
    streaming_at: Lsn = INVALID_LSN
    acked_lsn: Lsn = INVALID_LSN
    persisted_commit_lsn: Lsn = INVALID_LSN
    hot_standby: HotStandbyFeedback = NO_HOT_STANDBY
    last_sent_at: float = -inf
    asked_at: float = inf
    tell_commit_at: float = inf
    doubt: "Doubt | None" = None

    def hang_up(self) -> None:
        """The connection is gone.  Votes and acknowledgements were durable when given and still count."""
        self.phase = Phase.OFFLINE
        self.started_at = self.streaming_at = INVALID_LSN
        self.hot_standby = NO_HOT_STANDBY
        self.last_sent_at, self.asked_at, self.tell_commit_at = -inf, inf, inf

    def become(self, node_id: NodeId) -> None:
        """Who answers at this address.  What another keeper promised there is not this one's promise."""
        if node_id != self.node_id:
            self.granted, self.vote = False, None
            self.acked_lsn = self.persisted_commit_lsn = INVALID_LSN
            self.doubt = None
        self.node_id = node_id

    def start_streaming(self, lsn: Lsn) -> None:
        """The election was announced.  A keeper that lost WAL it had acknowledged has to acknowledge anew."""
        self.phase = Phase.STREAMING
        self.started_at = self.streaming_at = lsn
        if lsn < self.acked_lsn:
            self.acked_lsn = INVALID_LSN
        self.last_sent_at = -inf

    @property
    def durable_lsn(self) -> Lsn:
        """Up to where it surely has our WAL on disk: where the logs diverged, or what it acknowledged since."""
        return max(self.started_at, self.acked_lsn) if self.phase is Phase.STREAMING else INVALID_LSN

    def sent(self, now: float) -> None:
        """Something that has to be answered left for it."""
        self.last_sent_at = now
        if self.asked_at == inf:
            self.asked_at = now

    def heard(self) -> None:
        self.asked_at = inf

    def silent_for(self, now: float) -> float:
        """How long it has owed an answer, in seconds; 0 while it owes none."""
        return max(now - self.asked_at, 0.0) if self.phase in _OWES_AN_ANSWER else 0.0
