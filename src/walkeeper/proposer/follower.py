"""One keeper as the proposer sees it: how far the conversation has come, and how far its WAL.

Plain state and the small questions about it; the rules that move it are in ``proposer.proposer``.  What outlives a
connection (node id, acknowledged positions, doubt, what standbys need) and what does not is told apart in ``hang_up``.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Final

from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.messages import NO_HOT_STANDBY, HotStandbyFeedback, VoteResponse
from walkeeper.terms import INITIAL_TERM

UNKNOWN_NODE: Final = NodeId(0)

NEVER: Final = -1

HOT_STANDBY_SECONDS: Final = 60.0
"""How long what standbys behind a keeper need outlives its last word: they may never have lost it, and come back within
seconds if they did.  Longer would hold up vacuum on the primary for standbys that are gone."""


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


_BEFORE_GREETINGS = (Phase.OFFLINE, Phase.CONNECTED, Phase.GREETING)
_OWES_AN_ANSWER = (Phase.GREETING, Phase.VOTING, Phase.VOTED, Phase.STREAMING)


@dataclass(slots=True)
class Follower:
    """``started_at`` is where this connection began to stream, ``streaming_at`` the next byte to send; both are
    0 unless streaming.  ``acked_lsn`` and ``persisted_commit_lsn`` are what it reported under our term,
    ``hot_standby`` what the standbys that read from it needed at ``hot_standby_at``.  Times are the caller's seconds.

    ``is_whole`` is what it says of itself, None if it does not.  ``vote`` is what it has promised us, on this
    connection.  Whether it still knows is asked: ``asked_after`` so many votes had come in, None while no question is
    open, and it has confirmed that it did ``confirmed_after`` so many.  ``is_doubted``: it may have forgotten other
    promises, so its acknowledgements do not count.  ``damaged_for``: up to where WAL was sound that it gave for the keepers
    at these places, and damaged behind.  ``is_lacking``: it waits for WAL that nobody gives.
    """

    name: str
    phase: Phase = Phase.OFFLINE
    node_id: NodeId = UNKNOWN_NODE
    is_whole: bool | None = None
    is_doubted: bool = False
    vote: VoteResponse | None = None
    asked_after: int | None = None
    confirmed_after: int = NEVER
    started_at: Lsn = INVALID_LSN
    streaming_at: Lsn = INVALID_LSN
    acked_lsn: Lsn = INVALID_LSN
    persisted_commit_lsn: Lsn = INVALID_LSN
    hot_standby: HotStandbyFeedback = NO_HOT_STANDBY
    hot_standby_at: float = -inf
    greeted_at: float = -inf
    last_sent_at: float = -inf
    asked_at: float = inf
    tell_commit_at: float = inf
    damaged_for: dict[int, Lsn] = field(default_factory=dict)
    is_lacking: bool = False

    def hang_up(self) -> None:
        """The connection is gone.  Acknowledgements were durable when given and still count.

        A vote does not: whoever comes back may have lost it, and by voting for others have hidden that it has.  Nor does
        damage: it may have been repaired meanwhile.
        """
        self.phase = Phase.OFFLINE
        self.forget_vote()
        self.started_at = self.streaming_at = INVALID_LSN
        self.last_sent_at, self.asked_at, self.tell_commit_at = -inf, inf, inf
        self.damaged_for.clear()
        self.is_lacking = False

    def forget_vote(self) -> None:
        self.vote, self.asked_after, self.confirmed_after = None, None, NEVER

    def become(self, node_id: NodeId) -> None:
        """Who answers at this address.  What another keeper acknowledged there is not this one's word."""
        if node_id != self.node_id:
            self.acked_lsn = self.persisted_commit_lsn = INVALID_LSN
        self.node_id = node_id

    @property
    def has_greeted(self) -> bool:
        """On this connection."""
        return self.phase not in _BEFORE_GREETINGS

    @property
    def counts(self) -> bool:
        """Whether it gets our WAL, and what it says of it is to be believed."""
        return self.phase is Phase.STREAMING and not (self.is_doubted or self.is_lacking)

    @property
    def owes_hot_standby(self) -> bool:
        """Whether it will say what standbys need, and never has yet."""
        return self.phase is not Phase.OFFLINE and self.hot_standby_at == -inf

    def standbys_need(self, hot_standby: HotStandbyFeedback, now: float) -> None:
        self.hot_standby, self.hot_standby_at = hot_standby, now

    def still_needed(self, now: float) -> HotStandbyFeedback:
        """What it said last, unless that is too long ago."""
        return self.hot_standby if now - self.hot_standby_at < HOT_STANDBY_SECONDS else NO_HOT_STANDBY

    @property
    def claims_to_be_whole(self) -> bool:
        """What it says of itself.  Of one that does not say, its vote tells at least whether it ever heard of a leader."""
        if self.is_whole is not None:
            return self.is_whole
        return self.vote is not None and self.vote.term_history.last_term != INITIAL_TERM

    def start_streaming(self, lsn: Lsn) -> None:
        """The election was announced.  A keeper that lost WAL it had acknowledged has to acknowledge anew."""
        self.phase = Phase.STREAMING
        self.started_at = self.streaming_at = lsn
        if lsn < self.acked_lsn:
            self.acked_lsn = self.persisted_commit_lsn = INVALID_LSN
        self.last_sent_at = -inf

    @property
    def durable_lsn(self) -> Lsn:
        """Up to where it surely has our WAL on disk: where the logs diverged, or what it acknowledged since."""
        return max(self.started_at, self.acked_lsn) if self.phase is Phase.STREAMING else INVALID_LSN

    def sent(self, now: float) -> None:
        """Something that has to be answered left for it."""
        self.last_sent_at = now
        self.was_asked(now)

    def was_asked(self, now: float) -> None:
        if self.asked_at == inf:
            self.asked_at = now

    def heard(self) -> None:
        self.asked_at = inf

    def silent_for(self, now: float) -> float:
        """How long it has owed an answer, in seconds; 0 while it owes none."""
        return max(now - self.asked_at, 0.0) if self.phase in _OWES_AN_ANSWER else 0.0
