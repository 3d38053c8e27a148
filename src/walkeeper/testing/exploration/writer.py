"""One writer of a small world as a value: the real proposer taken apart, and the log that it streams.

A ``Proposer`` is an object that changes.  Here it is thawed from a value, told one thing, and frozen again; the caller
remembers what came of it.  Freezing leaves out what no decision reads, so that states which differ in nothing else are
one state:

* times: it is always the same moment, so a heartbeat is always due, and silence is a connection that is cut;
* ``truncate_lsn`` and what standbys need, which are for others, ``persisted_commit_lsn``, which is for ``walkeeper
  sync``, and ``started_at``, which is for the choice of a donor;
* the vote of a keeper that was told of the election (that there is one still counts), the election once it is
  announced, and who confirmed what while nobody is asking;
* the number and the standing of a keeper that is not connected, and terms seen by a writer that has won;
* how often votes have come in: only whether it was before or after the last one.

``tests/unit/testing`` explores worlds with and without these and compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Final, assert_never

from walkeeper.errors import PeerError
from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, Lsn
from walkeeper.membership import NO_CONFIGURATION, NO_GENERATION
from walkeeper.messages import (
    NO_HOT_STANDBY,
    AcceptorGreeting,
    AcceptorMessage,
    AppendRun,
    Batch,
    ProposerGreeting,
    VoteResponse,
)
from walkeeper.proposer.actions import Action, CampaignLost, CommitAdvanced, Elected, Overtaken, Reconfigured
from walkeeper.proposer.election import Election
from walkeeper.proposer.follower import NEVER, UNKNOWN_NODE, Follower, Phase
from walkeeper.proposer.proposer import Pace, Proposer, Stage
from walkeeper.terms import INITIAL_TERM, Term, TermHistory
from walkeeper.testing.exploration.entries import SERVER, START, TTID, Log, entries_below, lsn_of, wal_of

NOW: Final = 0.0
GREETING: Final = ProposerGreeting(TTID, NO_CONFIGURATION, SERVER)
ALWAYS_DUE: Final = Pace(heartbeat_seconds=0.0)

_A_VOTE: Final = VoteResponse(
    NO_GENERATION, INITIAL_TERM, True, INVALID_LSN, INVALID_LSN, TermHistory(), INVALID_LSN
)
_SLOTS: Final = tuple(
    field.name
    for field in fields(Follower)
    # No disk of a small world damages anything, and no time passes.
    if field.name not in ("name", "damaged_for", "greeted_at")
)

_PHASE: Final = _SLOTS.index("phase")

SOMEBODY: Final = NodeId(99)
"""A keeper whose number is known."""

Line = tuple[object, ...]
"""What a writer knows of one keeper: the fields of its follower."""

FrozenProposer = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer without what it knows of each keeper.  ``log`` is what it streams, empty until it leads."""

    proposer: FrozenProposer
    log: Log
    stage: Stage
    term: Term
    highest_term: Term

    def can_do_something(self, terms: int) -> bool:
        """Whether anything can come of it, other than a new start, while nobody campaigns in a term above ``terms``."""
        if self.stage in (Stage.COLLECTING, Stage.LOST):
            return self.highest_term < terms
        return self.stage is not Stage.OVER and self.term <= terms


@dataclass(frozen=True, slots=True)
class Reaction:
    """What came of an event."""

    writer: Writer
    lines: tuple[Line, ...]
    message: Batch | None = None
    won: Term | None = None
    donors: tuple[int, ...] = ()
    committed: Log = ()
    objection: str = ""


class WriterCode:
    """How writers behave: ``proposer`` is the class that decides."""

    def __init__(self, keepers: int, proposer: type[Proposer] = Proposer, *, reduces: bool = True) -> None:
        self._keepers = keepers
        self._proposer = proposer
        self._reduces = reduces

    def new(self) -> tuple[Writer, tuple[Line, ...]]:
        """A writer that has just been started."""
        names = [f"keeper {place + 1}" for place in range(self._keepers)]
        reaction = self._freeze(self._proposer(names, GREETING, ALWAYS_DUE), ())
        return reaction.writer, reaction.lines

    def reduced(self, writer: Writer, lines: Sequence[Line]) -> Reaction:
        """The same writer, if it was frozen with all there is."""
        return self._freeze(self._thaw(writer, lines), writer.log)

    # -- events -----------------------------------------------------------------------------------------------

    def connect(self, writer: Writer, lines: Sequence[Line], place: int, greeting: tuple[bool, Term]) -> Reaction:
        """Connections and greetings are one step: the keeper does not change, and the writer takes the highest term."""
        is_whole, term = greeting
        proposer = self._thaw(writer, lines)
        proposer.connected(place, is_whole)
        proposer.next_message(place, NOW)
        return self._hear(proposer, writer, place, AcceptorGreeting(NodeId(place + 1), NO_CONFIGURATION, term))

    def cut(self, writer: Writer, lines: Sequence[Line], place: int) -> Reaction:
        proposer = self._thaw(writer, lines)
        proposer.disconnected(place)
        return self._freeze(proposer, writer.log)

    def send(self, writer: Writer, lines: Sequence[Line], place: int, pieces: int) -> Reaction | None:
        """The next word for the keeper at ``place``, with at most so many entries of WAL; None if there is none."""
        proposer = self._thaw(writer, lines)
        at = max(proposer.followers[place].streaming_at, START)
        message = proposer.next_message(place, NOW, lsn_of(entries_below(at) + pieces))
        if message is None:
            return None
        if isinstance(message, AppendRun):
            message = self._with_wal(message, writer.log)
        return replace(self._freeze(proposer, writer.log), message=message)

    def _with_wal(self, run: AppendRun, log: Log) -> AppendRun:
        wal = wal_of(log)[run.begin_lsn - START : run.end_lsn - START]
        horizon = INVALID_LSN if self._reduces else run.truncate_lsn
        return replace(run, slices=(wal,) if wal else (), truncate_lsn=horizon)

    def hear(self, writer: Writer, lines: Sequence[Line], place: int, reply: AcceptorMessage) -> Reaction:
        return self._hear(self._thaw(writer, lines), writer, place, reply)

    def _hear(self, proposer: Proposer, writer: Writer, place: int, reply: AcceptorMessage) -> Reaction:
        won: Term | None = None
        donors, committed, objection = tuple[int, ...](), Log(), ""
        actions: Sequence[Action] = ()
        try:
            actions = proposer.received(place, reply, NOW)
        except PeerError as error:
            objection = type(error).__name__
            proposer.disconnected(place)
        for action in actions:
            match action:
                case Elected(election):
                    won, donors = election.term, _donors(proposer, election)
                case CommitAdvanced(lsn):
                    committed = writer.log[: entries_below(lsn)]
                case CampaignLost() | Overtaken() | Reconfigured():
                    pass  # its stage says so
                case _:
                    assert_never(action)
        done = self._freeze(proposer, writer.log)
        return replace(done, won=won, donors=donors, committed=committed, objection=objection)

    def campaign_again(self, writer: Writer, lines: Sequence[Line]) -> Reaction:
        proposer = self._thaw(writer, lines)
        proposer.campaign_again()
        return self._freeze(proposer, writer.log)

    def lead(self, writer: Writer, lines: Sequence[Line], donors_log: Log) -> Reaction | None:
        """Announce the election, with the donor's WAL up to where it voted; None if the donor has lost that."""
        proposer = self._thaw(writer, lines)
        proposer.lead(START)
        log = donors_log[: entries_below(proposer.term_start_lsn)]
        if lsn_of(len(log)) != proposer.term_start_lsn:
            return None
        return self._freeze(proposer, log)

    def write(self, writer: Writer, lines: Sequence[Line]) -> Reaction:
        """One more entry."""
        proposer = self._thaw(writer, lines)
        log = (*writer.log, writer.term)
        proposer.wal_grew(lsn_of(len(log)))
        return self._freeze(proposer, log)

    # -- values -----------------------------------------------------------------------------------------------

    def _thaw(self, writer: Writer, lines: Sequence[Line]) -> Proposer:
        proposer = object.__new__(self._proposer)
        vars(proposer).update(writer.proposer)
        proposer.followers = tuple(_thaw_follower(place, line) for place, line in enumerate(lines))
        return proposer

    def _freeze(self, proposer: Proposer, log: Log) -> Reaction:
        if self._reduces:
            _reduce(proposer)
        state = sorted((name, value) for name, value in vars(proposer).items() if name != "followers")
        lines = tuple(_freeze_follower(follower) for follower in proposer.followers)
        writer = Writer(tuple(state), log, proposer.stage, proposer.term, proposer._highest_term)
        return Reaction(writer, lines)


def has_only_greeted(line: Line) -> bool:
    return line[_PHASE] is Phase.WAITING


def _donors(proposer: Proposer, election: Election) -> tuple[int, ...]:
    """Whoever voted with a log as good as the donor's is as good a donor: who comes first in the list is chance."""
    best = proposer.followers[election.donor].vote
    assert best is not None
    votes = [follower.vote for follower in proposer.followers]
    return tuple(place for place, vote in enumerate(votes) if vote is not None and _end(vote) == _end(best))


def _end(vote: VoteResponse) -> tuple[Term, Lsn]:
    return vote.term_history.last_log_term(vote.flush_lsn), vote.flush_lsn


def _thaw_follower(place: int, frozen: Line) -> Follower:
    follower = Follower(f"keeper {place + 1}")
    for name, value in zip(_SLOTS, frozen, strict=True):
        setattr(follower, name, value)
    if follower.node_id != UNKNOWN_NODE:
        follower.node_id = NodeId(place + 1)
    return follower


def _freeze_follower(follower: Follower) -> Line:
    """Without its place: keepers change places with each other."""
    if follower.node_id != UNKNOWN_NODE:
        follower.node_id = SOMEBODY
    return tuple(getattr(follower, name) for name in _SLOTS)


def _reduce(proposer: Proposer) -> None:
    """Give everything that no decision reads the same value."""
    proposer.truncate_lsn = INVALID_LSN
    if proposer.stage is Stage.LEADING:
        proposer.election = None
    elif proposer.election is not None:
        proposer.election = replace(proposer.election, donor=0, truncate_lsn=INVALID_LSN)
    if proposer.has_won:
        proposer._highest_term = proposer.term
    for follower in proposer.followers:
        _reduce_follower(follower, proposer._votes, is_asking=proposer.is_asking)
    proposer._votes = 0


def _reduce_follower(follower: Follower, votes: int, *, is_asking: bool) -> None:
    follower.started_at = follower.persisted_commit_lsn = INVALID_LSN
    follower.node_id = SOMEBODY
    if follower.phase is Phase.OFFLINE:
        follower.is_whole = None
    follower.hot_standby, follower.hot_standby_at = NO_HOT_STANDBY, -inf
    follower.last_sent_at, follower.asked_at, follower.tell_commit_at = -inf, inf, inf
    if follower.asked_after is not None:
        follower.asked_after = 0 if is_asking and follower.asked_after == votes else NEVER
    follower.confirmed_after = 0 if is_asking and follower.confirmed_after == votes else NEVER
    if follower.vote is not None:
        told = follower.phase is Phase.STREAMING
        follower.vote = _A_VOTE if told else replace(follower.vote, truncate_lsn=INVALID_LSN)
