"""The writer's state machine: campaign for a term, then keep a quorum of keepers supplied with WAL.

    COLLECTING --greetings of a quorum--> CAMPAIGNING --votes, confirmed--> WON --lead()--> LEADING
                                            LOST <--refused--'  '<--campaign_again()

Events go in (``connected``, ``received``, ``disconnected``, ``wal_grew``), actions come out of ``received``, and the
words for each keeper are fetched with ``next_message`` whenever its connection can take one.  WAL itself never
passes here, only positions.  Time is a parameter, in seconds of any clock that does not go back.

Rules:
* the term is one more than the highest that a quorum of greetings shows;
* nothing is announced between WON and ``lead``: announcing truncates keepers, so the caller proves first that its
  WAL continues the election's;
* an acknowledgement counts from the start of our term on, commit_lsn never goes back, and truncate_lsn is what
  every keeper has, capped by commit_lsn;
* a higher term anywhere ends a leader (``Overtaken``), but only spoils the attempt of a candidate (``CampaignLost``).

Disks may be lost, and with them promises; a keeper knows whether it was made anew since (it is not *whole*, until a
leader has said so).  Hence one more rule, which wins elections and settles doubts (invariants 47 to 49):

* we have a majority while a quorum of whole keepers, or everybody, stands by its vote for us: confirms it, on the
  connection on which it was given, when asked again after the last vote has come in.  So there was a moment at which
  they all were bound, and nobody above our term had been elected before it;
* that wins a campaign.  A keeper that comes later and is not whole is doubted, and has everybody asked again: only
  then do its acknowledgements count, and only then does it hear a commit_lsn, by which it becomes whole.

Source: Neon's walproposer, with these differences: votes are confirmed, and end with their connection; keepers that
are not whole; a reconnected keeper that lost acknowledged WAL stops counting for it; two addresses of one keeper
are refused instead of counted twice.  Does not connect, read clocks or touch WAL.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf
from typing import assert_never

from walkeeper.errors import ConfigError, Malformed, OutOfTurn
from walkeeper.ids import NodeId
from walkeeper.lsn import INVALID_LSN, LSN_MAX, Lsn
from walkeeper.membership import KEEPERS_MAX, Configuration
from walkeeper.messages import (
    APPEND_BYTES_MAX,
    AcceptorGreeting,
    AcceptorMessage,
    AppendResponse,
    AppendRun,
    HotStandbyFeedback,
    ProposerElected,
    ProposerGreeting,
    ServerInfo,
    VoteRequest,
    VoteResponse,
    merge_hot_standby,
)
from walkeeper.proposer.actions import (
    Action,
    CampaignLost,
    CommitAdvanced,
    Elected,
    Overtaken,
    Reconfigured,
)
from walkeeper.proposer.election import Election, divergence_point, settle
from walkeeper.proposer.follower import UNKNOWN_NODE, Follower, Phase
from walkeeper.proposer.quorum import Quorum, Voter
from walkeeper.terms import INITIAL_TERM, TERM_MAX, Term, TermHistory

Outgoing = ProposerGreeting | VoteRequest | ProposerElected | AppendRun
"""An AppendRun has no slices here: its WAL is the caller's to add.  Empty ones are heartbeats and news."""


class Stage(Enum):
    COLLECTING = auto()
    CAMPAIGNING = auto()
    LOST = auto()
    WON = auto()
    LEADING = auto()
    OVER = auto()
    """Overtaken or reconfigured: nothing more is said to anyone."""


_AT_WORK = (Stage.CAMPAIGNING, Stage.WON, Stage.LEADING)


@dataclass(frozen=True, slots=True)
class Pace:
    """A keeper with nothing to do hears a heartbeat every ``heartbeat_seconds``, and news of a commit that no WAL
    carries after ``commit_news_seconds``; it is silent when an answer is ``silence_seconds`` overdue.  While there is no
    majority, what it said of itself is believed for ``greeting_seconds``.
    """

    heartbeat_seconds: float = 1.0
    silence_seconds: float = 10.0
    commit_news_seconds: float = 0.0
    greeting_seconds: float = 30.0


class Proposer:
    """One attempt to lead, and the leadership if it succeeds.  ``keepers`` are named for messages to people.

    ``held_term`` is the highest term this writer campaigned with in an earlier leadership: a keeper beyond it has
    heard of another writer since, so instead of outbidding that one the campaign ends with ``Overtaken``.
    The configuration in ``greeting`` is where it begins; a newer one that a keeper knows is adopted, and told to others.
    Raises ConfigError for no keepers, too many, or one listed twice.
    """

    def __init__(
        self,
        keepers: Sequence[str],
        greeting: ProposerGreeting,
        pace: Pace = Pace(),
        held_term: Term | None = None,
    ) -> None:
        if not 1 <= len(keepers) <= KEEPERS_MAX:
            raise ConfigError(f"between 1 and {KEEPERS_MAX} keepers are needed, got {len(keepers)}")
        if len(set(keepers)) < len(keepers):
            raise ConfigError(f"each keeper counts once, but one is listed twice: {', '.join(keepers)}")
        self.followers = tuple(map(Follower, keepers))
        self.stage = Stage.COLLECTING
        self.term = INITIAL_TERM
        self.history = TermHistory()
        self.term_start_lsn = INVALID_LSN
        self.available_lsn = INVALID_LSN
        self.commit_lsn = INVALID_LSN
        self.truncate_lsn = INVALID_LSN
        self.election: Election | None = None
        self._greeting = greeting
        self._pace = pace
        self._held_term = held_term
        self._highest_term = INITIAL_TERM
        self._votes = 0
        """That have ever come in: the clock by which confirmations are dated."""
        self.is_asking = False
        """Whether those who have voted have to confirm it: a campaign, or somebody is doubted."""
        self.configuration = greeting.configuration
        self._quorum = Quorum.of(greeting.configuration, len(keepers))

    @property
    def server(self) -> ServerInfo:
        """Whose WAL it is."""
        return self._greeting.server

    # -- connections ------------------------------------------------------------------------------------------

    def connected(self, place: int, is_whole: bool | None) -> None:
        """The keeper at ``place`` can be spoken to; a connection it had before is forgotten.

        ``is_whole`` is what the keeper said of itself on this connection, None if it does not know the question.
        """
        follower = self.followers[place]
        follower.hang_up()
        follower.phase, follower.is_whole = Phase.CONNECTED, is_whole
        follower.is_doubted |= is_whole is False

    def disconnected(self, place: int) -> None:
        self.followers[place].hang_up()

    def silent(self, now: float) -> list[int]:
        """The places of keepers whose answer is overdue: their connections are worth nothing."""
        return [
            place
            for place, follower in enumerate(self.followers)
            if follower.silent_for(now) >= self._pace.silence_seconds
        ]

    def outdated(self, now: float) -> list[int]:
        """The places of keepers that should be greeted again: who waits for a majority is told nothing new otherwise.

        Meanwhile they may have become whole, under a rival that is gone, or have heard of other members.
        """
        if self.stage is not Stage.COLLECTING:
            return []
        return [
            place
            for place, follower in enumerate(self.followers)
            if follower.phase is Phase.WAITING and now - follower.greeted_at >= self._pace.greeting_seconds
        ]

    # -- what keepers say -------------------------------------------------------------------------------------

    def received(self, place: int, message: AcceptorMessage, now: float) -> Sequence[Action]:
        """Take in one message.  Raises OutOfTurn or Malformed for one that this conversation cannot contain, and
        ConfigError when two of the keepers are the same one."""
        follower = self.followers[place]
        follower.heard()
        if message.term > TERM_MAX:
            raise Malformed(f"{follower.name} is in term {message.term}, which leaves no room for later ones")
        match message:
            case AppendResponse():
                return self._on_append_response(follower, message, now)
            case VoteResponse():
                return self._on_vote(follower, message, now)
            case AcceptorGreeting():
                return self._on_greeting(place, message, now)
            case _:
                assert_never(message)

    def _on_greeting(self, place: int, message: AcceptorGreeting, now: float) -> Sequence[Action]:
        follower = self.followers[place]
        self._expect(follower, Phase.GREETING, "AcceptorGreeting")
        self._identify(follower, message.node_id)
        follower.phase, follower.greeted_at = Phase.WAITING, now
        self._highest_term = max(self._highest_term, message.term)
        if message.configuration.generation > self.configuration.generation:
            if self.stage is not Stage.COLLECTING:
                return self._end(Reconfigured(follower.name, message.configuration.generation))
            self._adopt(message.configuration)
        if self.stage is Stage.OVER:
            return ()
        if self._held_term is not None and message.term > max(self._held_term, self.term):
            return self._end(Overtaken(follower.name, message.term))
        if self.stage is Stage.COLLECTING:
            self._campaign_if_enough_greeted()
        elif message.term > self.term:
            return self._overruled(follower, message.term)
        return ()

    def _identify(self, follower: Follower, node_id: NodeId) -> None:
        """One keeper, one vote: it must not be listed under two addresses (invariant 2 is per keeper)."""
        if node_id == UNKNOWN_NODE:
            raise Malformed("AcceptorGreeting: node id 0")
        for other in self.followers:
            if other is follower or other.node_id != node_id:
                continue
            if other.phase is not Phase.OFFLINE:
                same = f"{other.name} and {follower.name} are the same keeper (id {node_id})"
                raise ConfigError(f"{same}: list it once")
            other.become(UNKNOWN_NODE)
        follower.become(node_id)

    def _adopt(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._quorum = Quorum.of(configuration, len(self.followers))

    def _campaign_if_enough_greeted(self) -> None:
        """Only if those who are there could elect us: asking for votes deposes whoever leads, for nothing otherwise."""
        greeted = [place for place, each in enumerate(self.followers) if each.phase is Phase.WAITING]
        whole = self._voters_at(place for place in greeted if self.followers[place].is_whole is not False)
        if self._quorum.agree(whole) or self._quorum.is_everybody(self._voters_at(greeted)):
            self._campaign()

    def _campaign(self) -> None:
        self.stage, self.is_asking = Stage.CAMPAIGNING, True
        self.term = Term(self._highest_term + 1)

    def campaign_again(self) -> None:
        """After ``CampaignLost``: ask everyone anew, in a term above all that were seen, once enough are there."""
        assert self.stage is Stage.LOST
        self.stage = Stage.COLLECTING
        for follower in self.followers:
            follower.forget_vote()
            if follower.phase in (Phase.VOTING, Phase.VOTED):
                follower.phase = Phase.WAITING
        self._campaign_if_enough_greeted()

    def _on_vote(self, follower: Follower, vote: VoteResponse, now: float) -> Sequence[Action]:
        """A vote, or its confirmation: a keeper that is asked again refuses, at our own term."""
        if vote.term < self.term and follower.phase in (Phase.WAITING, Phase.VOTING):
            return ()  # the answer to an earlier campaign of ours
        if follower.asked_after is None:
            raise OutOfTurn(f"VoteResponse from {follower.name} while {follower.phase.name.lower()}")
        self._highest_term = max(self._highest_term, vote.term)
        confirms = follower.vote is not None
        if vote.term > self.term or not (vote.vote_given or confirms or self.has_won):
            return self._overruled(follower, vote.term)
        if not confirms:
            self._take_vote(follower, vote)
        elif vote.vote_given or vote.term < self.term:
            raise OutOfTurn(f"{follower.name} has forgotten that it voted")
        else:
            follower.confirmed_after = follower.asked_after
        follower.asked_after = None
        return self._settle(now) if self.is_asking else ()

    def _take_vote(self, follower: Follower, vote: VoteResponse) -> None:
        follower.phase, follower.vote = Phase.VOTED, vote
        follower.is_doubted = not follower.claims_to_be_whole
        self._votes += 1
        self.is_asking |= follower.is_doubted

    @property
    def own_term(self) -> Term:
        """The highest that this writer has had, in this leadership or before."""
        return max(self.term, self._held_term or INITIAL_TERM)

    @property
    def has_won(self) -> bool:
        """Whether a quorum has elected us; it may not have been announced."""
        return self.stage in (Stage.WON, Stage.LEADING)

    def _settle(self, now: float) -> Sequence[Action]:
        """Win the campaign and trust all that have voted so far, if we have a majority now (invariant 48)."""
        bound = [place for place, each in enumerate(self.followers) if each.confirmed_after == self._votes]
        whole = self._voters_at(place for place in bound if not self.followers[place].is_doubted)
        if not (self._quorum.agree(whole) or self._quorum.is_everybody(self._voters_at(bound))):
            return ()
        self.is_asking = False
        for follower in self.followers:
            if follower.is_doubted:
                follower.is_doubted, follower.tell_commit_at = False, now
        if self.stage is Stage.LEADING:
            return self._advance_commit(now)
        return self._win(self._quorum.vouches(whole)) if self.stage is Stage.CAMPAIGNING else ()

    def _win(self, is_vouched_for: bool) -> Sequence[Action]:
        votes = {place: each.vote for place, each in enumerate(self.followers) if each.vote is not None}
        self.stage = Stage.WON
        self.election = settle(self.term, votes, is_vouched_for=is_vouched_for)
        return [Elected(self.election)]

    def _overruled(self, follower: Follower, term: Term) -> Sequence[Action]:
        """Someone else holds ``term``: the end of a leader, the end of this attempt for a candidate."""
        if self.has_won or (self._held_term is not None and term > self.term):
            return self._end(Overtaken(follower.name, term))
        follower.phase = Phase.WAITING
        self.stage = Stage.LOST
        return [CampaignLost(follower.name, term)]

    def _end(self, last_words: Overtaken | Reconfigured) -> Sequence[Action]:
        self.stage = Stage.OVER
        return [last_words]

    def _on_append_response(self, follower: Follower, message: AppendResponse, now: float) -> Sequence[Action]:
        self._expect(follower, Phase.STREAMING, "AppendResponse")
        if message.term > self.term:
            return self._end(Overtaken(follower.name, message.term))
        if message.generation != self.configuration.generation:
            return self._end(Reconfigured(follower.name, message.generation))
        if message.term < self.term:
            raise OutOfTurn(
                f"AppendResponse of term {message.term} from {follower.name}, after a vote in {self.term}"
            )
        follower.acked_lsn = message.flush_lsn
        follower.persisted_commit_lsn = message.commit_lsn
        follower.standbys_need(message.hot_standby, now)
        if follower.is_doubted or message.flush_lsn <= self.commit_lsn:  # it changes nothing for the quorum
            self._advance_truncate()
            return ()
        return self._advance_commit(now)

    def _expect(self, follower: Follower, phase: Phase, what: str) -> None:
        if follower.phase is not phase:
            raise OutOfTurn(f"{what} from {follower.name} while {follower.phase.name.lower()}")

    # -- leading ----------------------------------------------------------------------------------------------

    def lead(self, first_lsn: Lsn = INVALID_LSN) -> None:
        """Announce the election.  ``first_lsn`` is where WAL starts if this is the first leader ever."""
        assert self.stage is Stage.WON
        assert self.election is not None
        start_lsn = first_lsn if self.election.is_first else self.election.start_lsn
        assert start_lsn != INVALID_LSN
        self.stage = Stage.LEADING
        self.term_start_lsn = self.available_lsn = start_lsn
        self.truncate_lsn = start_lsn if self.election.is_first else self.election.truncate_lsn
        self.history = self.election.history.with_term(self.term, start_lsn)

    def wal_grew(self, end_lsn: Lsn) -> None:
        """The caller can supply WAL up to ``end_lsn``."""
        assert end_lsn >= self.available_lsn
        self.available_lsn = end_lsn

    def _advance_commit(self, now: float) -> Sequence[Action]:
        """The epoch-start rule: WAL of earlier terms is committed only together with some of ours (Raft, 5.4.2)."""
        counted = {
            self._quorum.voter(place, follower.node_id): follower.acked_lsn
            for place, follower in enumerate(self.followers)
            if follower.acked_lsn >= self.term_start_lsn and not follower.is_doubted
        }
        candidate = self._quorum.agreed_lsn(counted)
        if candidate <= self.commit_lsn:
            self._advance_truncate()
            return ()
        self.commit_lsn = candidate
        self._advance_truncate()
        for follower in self.followers:
            follower.tell_commit_at = min(follower.tell_commit_at, now + self._pace.commit_news_seconds)
        return [CommitAdvanced(candidate)]

    def _advance_truncate(self) -> None:
        everywhere = min(follower.acked_lsn for follower in self.followers)
        self.truncate_lsn = max(self.truncate_lsn, min(everywhere, self.commit_lsn))

    def donor_for(self, place: int) -> int | None:
        """The place of the keeper that should supply WAL which only keepers have to the one at ``place``: the one
        that surely has the most of it sound.  None while no other one has more than that keeper itself.
        """
        wanting = self.followers[place].streaming_at
        others = [other for other in range(len(self.followers)) if other != place]
        best = max(others, key=lambda other: self._supply_of(other, place), default=None)
        return best if best is not None and self._supply_of(best, place) > wanting else None

    def _supply_of(self, donor: int, place: int) -> Lsn:
        return min(self.followers[donor].durable_lsn, self.sound_until(donor, place))

    def found_damaged(self, donor: int, place: int, sound_lsn: Lsn) -> None:
        """What ``donor`` gave for the keeper at ``place`` was sound up to ``sound_lsn``, and damaged behind."""
        self.followers[donor].damaged_for[place] = sound_lsn

    def sound_until(self, donor: int, place: int) -> Lsn:
        """Up to where what ``donor`` gives for the keeper at ``place`` is not known to be damaged."""
        sound_lsn = self.followers[donor].damaged_for.get(place, LSN_MAX)
        return LSN_MAX if sound_lsn < self.followers[place].durable_lsn else sound_lsn

    def damaged_donors(self, place: int) -> list[int]:
        """The places of those who have what the keeper at ``place`` wants next, but damaged."""
        wanting = self.followers[place].streaming_at
        return [
            other
            for other, follower in enumerate(self.followers)
            if other != place and self.sound_until(other, place) <= wanting < follower.durable_lsn
        ]

    def lacks_wal(self, place: int, lacks: bool) -> None:
        """Whether the keeper at ``place`` needs WAL that nobody gives, and so will acknowledge nothing new."""
        self.followers[place].is_lacking = lacks

    def hot_standby(self, now: float) -> HotStandbyFeedback | None:
        """What the standbys still need to see that read from keepers; None before all that are connected have said it."""
        heard = any(follower.hot_standby_at > -inf for follower in self.followers)
        if not heard or any(follower.owes_hot_standby for follower in self.followers):
            return None
        return merge_hot_standby(follower.still_needed(now) for follower in self.followers)

    # -- what to say to whom ----------------------------------------------------------------------------------

    def next_message(self, place: int, now: float, until: Lsn | None = None) -> Outgoing | None:
        """The next word for the keeper at ``place``, to be sent as soon as possible; None if there is none now.

        ``until`` limits an AppendRun to WAL that the caller has at hand for this keeper (default: all of it).
        """
        follower = self.followers[place]
        if self.is_asking and self._has_to_confirm(follower):
            return self._ask(follower, now)
        match follower.phase:
            case Phase.STREAMING if self.stage is Stage.LEADING:
                return self._next_append(follower, now, self.available_lsn if until is None else until)
            case Phase.CONNECTED:
                follower.phase = Phase.GREETING
                follower.sent(now)
                return replace(self._greeting, configuration=self.configuration)
            case Phase.WAITING if self.stage in _AT_WORK:
                follower.phase = Phase.VOTING
                return self._ask(follower, now)
            case Phase.VOTED if self.stage is Stage.LEADING:
                return self._announce(follower)
            case _:
                return None

    def _has_to_confirm(self, follower: Follower) -> bool:
        """Whether it has voted, but may have forgotten that before the last vote came in.  One question at a time."""
        is_sure = follower.vote is None or follower.confirmed_after == self._votes
        return not is_sure and follower.asked_after is None and self.stage in _AT_WORK

    def _ask(self, follower: Follower, now: float) -> VoteRequest:
        follower.asked_after = self._votes
        follower.was_asked(now)
        return VoteRequest(self.configuration.generation, self.term)

    def _announce(self, follower: Follower) -> ProposerElected:
        assert follower.vote is not None
        start_lsn = divergence_point(self.history, follower.vote)
        follower.start_streaming(start_lsn)
        return ProposerElected(self.configuration.generation, self.term, start_lsn, self.history)

    def _next_append(self, follower: Follower, now: float, until: Lsn) -> AppendRun | None:
        begin_lsn = follower.streaming_at
        end_lsn = min(Lsn(begin_lsn + APPEND_BYTES_MAX), self.available_lsn, until)
        if end_lsn <= begin_lsn:
            if now < self._due_at(follower):
                return None
            end_lsn = begin_lsn
        follower.streaming_at = end_lsn
        follower.tell_commit_at = inf
        follower.sent(now)
        commit_lsn = INVALID_LSN if follower.is_doubted else self.commit_lsn
        return AppendRun(
            self.configuration.generation, self.term, begin_lsn, end_lsn, commit_lsn, self.truncate_lsn
        )

    def wakes_at(self, place: int) -> float:
        """When ``next_message`` will have something for the keeper at ``place`` even if nothing happens."""
        return self._due_at(self.followers[place])

    def _due_at(self, follower: Follower) -> float:
        """A keeper that was just told of the election hears more at once: only its answer tells where it stands."""
        if follower.phase is not Phase.STREAMING or self.stage is not Stage.LEADING:
            return inf
        return min(follower.last_sent_at + self._pace.heartbeat_seconds, follower.tell_commit_at)

    def _voters_at(self, places: Iterable[int]) -> set[Voter]:
        """The voters at these places."""
        return {self._quorum.voter(place, self.followers[place].node_id) for place in places}

    # -- who is there -----------------------------------------------------------------------------------------

    @property
    def has_majority(self) -> bool:
        """Whether we lead enough keepers right now for something to be committed."""
        return self.is_majority(place for place, each in enumerate(self.followers) if each.counts)

    def is_majority(self, places: Iterable[int]) -> bool:
        """Whether the keepers at ``places`` are enough for something to be committed."""
        return self._quorum.agree(self._voters_at(places))

    @property
    def keepers_needed(self) -> int:
        """How many that are; of a joint configuration, in the larger of its sets."""
        return self._quorum.needed

    # -- sync -------------------------------------------------------------------------------------------------

    @property
    def is_persisted_by_quorum(self) -> bool:
        """Whether a quorum has our term's start as *persisted* commit_lsn, so that even restarts remember it."""
        persisted = [
            place for place, each in enumerate(self.followers) if self._has_persisted(each) and not each.is_doubted
        ]
        return self._quorum.agree(self._voters_at(persisted))

    def has_persisted(self, place: int) -> bool:
        """Whether the keeper at ``place`` has."""
        return self._has_persisted(self.followers[place])

    def _has_persisted(self, follower: Follower) -> bool:
        return self.stage is Stage.LEADING and follower.persisted_commit_lsn >= self.term_start_lsn
